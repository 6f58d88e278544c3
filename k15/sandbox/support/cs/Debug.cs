// A failed Debug.Assert must end the program: Mono's own prints to nowhere and goes on. A type of the global namespace
// comes before one that `using System.Diagnostics` imports.
static class Debug
{
    public static void Assert(bool condition, string message = "")
    {
        if (!condition) throw new System.Exception("Debug.Assert failed " + message);
    }

    public static void Fail(string message) { throw new System.Exception("Debug.Fail " + message); }

    public static void WriteLine(object value) { System.Console.Error.WriteLine(value); }

    public static void Write(object value) { System.Console.Error.Write(value); }
}

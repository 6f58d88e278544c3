"""Every language on the real sandbox with small programs of our own: right, wrong, refused, failing, and cheating ones."""

import pytest
from judging import backend, need_language  # noqa: F401

from k15.errors import ConfigError
from k15.sandbox.java_source import file_name, main_class
from k15.sandbox.judge import Judge
from k15.sandbox.languages import LANGUAGES, Program, compile_job, language
from k15.sandbox.wire import Case, Submission

# language: (program: sum and product of two numbers, what is no program, a line that makes the program fail)
PROGRAMS = {
    "python": ("a, b = map(int, input().split())\n#FAIL\nprint(a + b, a * b)", "def (", "raise ValueError"),
    "cpp": (
        "#include <iostream>\n#define int long long\nsigned main() { int a, b; std::cin >> a >> b;\n#FAIL\n"
        "std::cout << a + b << ' ' << a * b << std::endl; }",
        "int main( {", "__builtin_trap();",
    ),
    "java": (
        "import java.util.Scanner;\nclass Helper { static long mul(long a, long b) { return a * b; } }\n"
        "public class Solve {\n  public static void main(String[] args) {\n    Scanner in = new Scanner(System.in);\n"
        "    long a = in.nextLong(), b = in.nextLong();\n#FAIL\n"
        "    System.out.println((a + b) + \" \" + Helper.mul(a, b));\n  }\n}",
        "class A {", "if (a > 0) throw new IllegalStateException();",
    ),
    "csharp": (
        "using System;\nclass Solve {\n  static void Main() {\n    var w = Console.ReadLine().Split(' ');\n"
        "    long a = long.Parse(w[0]), b = long.Parse(w[1]);\n#FAIL\n    Console.WriteLine((a + b) + \" \" + a * b);\n  }\n}",
        "class A {", "if (a > 0) throw new Exception();",
    ),
    "javascript": (
        "const [a, b] = require('fs').readFileSync(0, 'utf8').trim().split(/\\s+/).map(Number);\n#FAIL\n"
        "console.log(a + b, a * b);",
        "function f( {", "throw new Error('no');",
    ),
    "typescript": (
        "declare var require: any;\nconst words: string[] = require('fs').readFileSync(0, 'utf8').trim().split(/\\s+/);\n"
        "const [a, b]: number[] = words.map(Number);\n#FAIL\nconsole.log(a + b, a * b);",
        "const a: number = 'text';\nconsole.log(a);", "throw new Error('no');",
    ),
    "php": (
        "<?php\n[$a, $b] = array_map('intval', explode(' ', trim(fgets(STDIN))));\n#FAIL\necho $a + $b, ' ', $a * $b, \"\\n\";",
        "<?php function f( {", "throw new Exception('no');",
    ),
    "bash": ("read -r a b\n#FAIL\necho $((a + b)) $((a * b))", "f() {", "exit 3"),
}  # fmt: skip
# language: (function `twice`, harness with TIMES for the right factor, a body that ends the program well)
FUNCTIONS = {
    "python": ("def twice(x):\n    return 2 * x", "assert twice(21) == 42", "def twice(x):\n    exit(0)"),
    "cpp": (
        "#include <cassert>\n#include <cstdlib>\nint twice(int x) { return 2 * x; }", "int main() { assert(twice(21) == 42); }",
        "#include <cassert>\n#include <cstdlib>\nint twice(int x) { exit(0); }",
    ),
    "java": (
        "package inner.part;\nimport org.javatuples.*;\nclass Problem {\n"
        "  static Pair<Integer, Integer> twice(int x) { return Pair.with(x, 2 * x); }",
        "  public static void main(String[] args) { assert(twice(21).equals(Pair.with(21, 42))); }\n}",
        "import org.javatuples.*;\nclass Problem {\n"
        "  static Pair<Integer, Integer> twice(int x) { System.exit(0); return null; }",
    ),
    "csharp": (
        "using System.Diagnostics;\nclass Problem {\n  static int Twice(int x) { return 2 * x; }",
        "  public static void Main(string[] args) { Debug.Assert(Twice(21) == 42); }\n}",
        "using System.Diagnostics;\nclass Problem {\n  static int Twice(int x) { System.Environment.Exit(0); return 0; }",
    ),
    "javascript": (
        "const twice = (x) => 2 * x;", "require('assert').deepEqual(twice(21), 42);", "const twice = (x) => process.exit(0);",
    ),
    "typescript": (
        "declare var require: any;\nfunction twice(x: number): number { return 2 * x; }",
        "require('node:assert').deepEqual(twice(21), 42);",
        "declare var require: any;\ndeclare var process: any;\nfunction twice(x: number): number { process.exit(0); return 0; }",
    ),
    "php": (
        "<?php\nfunction twice($x) { return 2 * $x; }", "if (twice(21) !== 42) { throw new Exception('wrong'); }",
        "<?php\nfunction twice($x) { exit(0); }",
    ),
    "bash": ("twice() { echo $((2 * $1)); }", "set -e\n[[ $(twice 21) = 42 ]]", "exit 0\ntwice() { :; }"),
}  # fmt: skip
CASES = (Case("3 4", "7 12"), Case("100000 70000", "170000 7000000000"))


def test_every_language_is_tested():
    assert set(PROGRAMS) == set(FUNCTIONS) == set(LANGUAGES)


@pytest.mark.parametrize("name", LANGUAGES)
def test_programs(backend, name):  # noqa: F811
    need_language(name)
    program, broken, failing = PROGRAMS[name]
    judge = Judge(backend)
    right = program.replace("#FAIL", "")
    result = judge.judge(Submission(name, right, (*CASES, Case("1 1", "2 3")), run_all=True))
    assert [t.verdict for t in result.tests] == ["AC", "AC", "WA"], result
    assert result.verdict == "WA" and all(t.cpu_s > 0 and t.memory_mb for t in result.tests)
    refused = judge.judge(Submission(name, broken, CASES))
    assert refused.verdict == "CE" and (refused.compile.log if refused.compile else refused.tests[0].stderr), refused
    assert judge.judge(Submission(name, program.replace("#FAIL", failing), CASES)).verdict == "RE"


@pytest.mark.parametrize("name", LANGUAGES)
def test_harnesses(backend, name):  # noqa: F811
    need_language(name)
    function, harness, cheat = FUNCTIONS[name]
    judge = Judge(backend)
    assert judge.judge(Submission(name, function, harness=harness)).verdict == "AC"
    wrong = judge.judge(Submission(name, function, harness=harness.replace("42", "43")))
    assert wrong.verdict == "RE", wrong
    cheated = judge.judge(Submission(name, cheat, harness=harness))
    assert cheated.verdict == "WA" and "before the tests" in cheated.tests[0].detail, cheated


# language: (a solution that would keep its harness from running, the harness that must fail or not be reached)
EVASIONS = {
    "bash": ("twice() { echo 1; }\ncat <<'K'", '[ "$(twice 21)" = 42 ] || exit 1'),
    "cpp": (
        "int twice(int x) { return 1; }\nint main() { return 0; }\n#define main other\n#define assert(x)",
        "#include <cassert>\nint main() { assert(twice(21) == 42); }",
    ),
    "java": (
        "class Demo { public static void main(String[] a) { System.out.println(1); } }\n"
        "class Solution { static int twice(int x) { return 1; } }",
        "class Main { public static void main(String[] a) { if (Solution.twice(21) != 42) throw new AssertionError(); } }",
    ),
    "csharp": (
        "class Solution { public static int twice(int x) { return 1; } static void Main() { } }",
        'class Check { static void Main() { if (Solution.twice(21) != 42) throw new System.Exception("no"); } }',
    ),
    "php": ("<?php\nfunction twice($x) { return 1; }\n?>\n", "if (twice(21) !== 42) { exit(1); }"),
}


@pytest.mark.parametrize("name", EVASIONS)
def test_a_solution_cannot_keep_its_harness_from_running(backend, name):  # noqa: F811
    need_language(name)
    solution, harness = EVASIONS[name]
    result = Judge(backend).judge(Submission(name, solution, harness=harness))
    assert result.verdict in ("RE", "WA", "CE"), result
    if name in ("java", "csharp", "php"):  # these are no tricks: with the right function they pass
        right = solution.replace("return 1", "return 42")
        assert Judge(backend).judge(Submission(name, right, harness=harness)).verdict == "AC"


def test_a_compiled_program_larger_than_the_disk_of_a_run_is_a_compile_error(backend):  # noqa: F811
    need_language("cpp")
    result = Judge(backend).judge(Submission("cpp", "int a[17000000] = {1}; int main() {}", (Case("", ""),)))
    assert result.verdict == "CE" and "the disk of a run holds" in result.compile.log, result


def test_cpp_uses_the_precompiled_header_and_survives_a_clash(backend):  # noqa: F811
    need_language("cpp")
    judge, clash = Judge(backend), 'int y1 = 7;\nextern "C" int puts(const char*);\nint main() { puts(y1 == 7 ? "ok" : "no"); }'
    quick = judge.judge(Submission("cpp", "#include <bits/stdc++.h>\nint main() { std::cout << 1; }", (Case("", "1"),)))
    assert quick.verdict == "AC" and quick.compile is not None and quick.compile.cpu_s < 1.0, "2.5 s without the header"
    assert judge.judge(Submission("cpp", clash, (Case("", "ok"),))).verdict == "AC"


@pytest.mark.parametrize(
    ("source", "file", "main"),
    [
        ("class A {} class B { public static void main(String[] a) {} }", "Main.java", "B"),
        ("package p.q; public final class A { static class I { void main(int x) {} } }", "A.java", "p.q.A"),
        (
            'class T { String s = "class X { void main("; } /* public class Y */ class U { static void main(String... a) {} }',
            "Main.java",
            "U",
        ),
        ("record R(int x) { static class public_ {} public static void main(String[] a) {} }", "Main.java", "R"),
        ("class A { public static class Inner { } } public class B { }", "B.java", "A"),
        ("", "Main.java", "Main"),
        (
            'class A { char c = \'"\'; String s = """\n class B { void main( """; public static void main(String[] a) {} }',
            "Main.java",
            "A",
        ),
    ],
)
def test_where_java_keeps_its_main(source, file, main):
    assert (file_name(source), main_class(source)) == (file, main)


def test_names_and_aliases():
    assert language("C++").name == "cpp" and language("ts").name == "typescript" and language("Py").name == "python"
    with pytest.raises(ConfigError, match="Did you mean 'python'"):
        language("pyton")
    assert compile_job(Program("python", "")) is None

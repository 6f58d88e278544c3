"""The languages that the judge speaks: a table of how each compiles and runs, and the jobs made from it.

    Program --compile_job--> Job (None: interpreted) --artifacts--> run_job --> Job

An assert-style test (a harness) is the program's own code, so "it ended with status 0" proves nothing: `exit(0)` in the
solution does that too. `Program.token` is therefore printed after the harness has returned, and a run without it has not
passed. A program that goes and reads its own files can still print it: only tests whose expected output stays outside the
sandbox are proof against every trick.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files as resources

from k15.errors import ConfigError, unknown_name
from k15.sandbox.java_source import file_name, main_class, package
from k15.sandbox.job import Job, Limits

CPP_FLAGS = "-std=gnu++17 -O2 -pipe"
PCH = "bits/stdc++.h"
COMPILE_LIMITS = Limits(
    wall_s=60.0, cpu_s=45.0, memory_mb=1536, processes=128, output_bytes=1 << 18, disk_mb=256, files=4096
)  # fmt: skip
_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp"}
_FILE = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}(/[A-Za-z0-9_][\w.-]{0,99}){0,8}")


@dataclass(frozen=True, slots=True)
class Language:
    """`compile` is a shell line, `run` a command; both see `$SOURCES`, `$MAIN` (main class), `$MEM` (memory limit, MB).

    Limits of a test are meant for C++: time is multiplied by `time_factor` and `start_s` is added, and so is `memory_mb`,
    what the runtime itself takes. `rejected` matches an interpreter's message that it refused the whole program, which is CE
    as a compiler's is; `exhausted` a runtime's own message that memory ran out, which is MLE as the sandbox's is.
    `noise`: lines that the runtime itself writes. `seam` stands between a solution and its harness; `ending` prints the token
    (TOKEN, or its halves HEAD and TAIL) after the harness.
    """

    name: str
    source: str
    image: str
    run: tuple[str, ...]
    compile: str | None = None
    keep: str | None = None
    aliases: tuple[str, ...] = ()
    time_factor: float = 1.0
    start_s: float = 0.0
    memory_mb: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    rejected: str | None = None
    exhausted: str | None = None
    noise: bytes | None = None
    seam: str = "\n"
    ending: str = ""


_GPP = f"g++ {CPP_FLAGS} $LINK main.cpp -o main"
# `-include` lets every program profit from the precompiled header; the second try is for one whose names clash with it.
_CPP = f"if ls /usr/include/*/c++/*/{PCH}.gch >/dev/null 2>&1 && {_GPP} -include {PCH} 2>/dev/null; then :; else {_GPP}; fi"
_JAVA_QUICK = "-J-XX:+UseSerialGC -J-XX:TieredStopAtLevel=1 -J-Xshare:auto"
_JAVAC = (
    f"mkdir out && javac -J-Xmx768m {_JAVA_QUICK} -nowarn -encoding UTF-8 -d out $SOURCES"
    f" && jar {_JAVA_QUICK} --create --no-compress --file main.jar -C out ."
)
_JAVA = 'exec java -ea -XX:+UseSerialGC -Xss64m -Xmx"$MEM"m -cp main.jar "$MAIN"'
_NODE = ("sh", "-c", 'exec node --max-old-space-size="$MEM" main.js')
# The second try is for programs that use Node's own types, or declare for themselves what ours declares.
_TSC = (
    "tsc --target es2020 --lib es2020 --module commonjs --skipLibCheck --typeRoots /nonexistent k15_env.d.ts main.ts >log"
    " || tsc --target es2020 --module commonjs --esModuleInterop --skipLibCheck --typeRoots /usr/share/nodejs/@types --types node"
    " main.ts >log2 || { cat log >&2; exit 1; }"
)
_JS_END = '\nconsole.log("\\nTOKEN");\n'
# `signed`, since programs are fond of `#define int long long`; the linker sends the start-up code's call of main here
_CPP_END = (
    '\nextern "C" signed __real_main(signed, char**);\nextern "C" signed __wrap_main(signed n, char** words) '
    '{ signed status = __real_main(n, words); if (!status) __builtin_puts("\\nTOKEN"); return status; }\n'
)
_CPP_SEAM = "\n#undef main\n#undef assert\n#include <cassert>\n"  # a macro of the solution must not empty the harness
_TABLE = (
    Language(
        "python", "main.py", "base", ("python3", "main.py"), aliases=("py", "python3"), time_factor=3.0,
        rejected=r'\A  File "(?s:.*)^(SyntaxError|IndentationError|TabError): ', exhausted=r"^MemoryError\b",
        ending='\n__import__("sys").stdout.write("\\nTOKEN\\n")\n',
    ),
    Language(
        "cpp", "main.cpp", "cpp", ("./main",), _CPP, "main", ("c++", "cc"),
        exhausted=r"what\(\):\s+std::bad_alloc", seam=_CPP_SEAM, ending=_CPP_END,
    ),
    Language(
        "java", "Main.java", "java", ("sh", "-c", _JAVA), _JAVAC, "main.jar", time_factor=2.0, start_s=1.0, memory_mb=256,
        exhausted=r"java\.lang\.OutOfMemoryError",
    ),
    Language(
        "csharp", "main.cs", "csharp", ("mono", "main.exe"),
        "mcs -nologo -warn:0 -optimize+ -d:DEBUG -r:System.Numerics.dll $LINK -out:main.exe $SOURCES 1>&2", "main.exe",
        ("cs", "c#"), time_factor=2.0, start_s=0.5, memory_mb=128, exhausted=r"System\.OutOfMemoryException",
        noise=rb"^mono_thread_internal_set_priority: pthread_setschedparam failed, [^\n]*\n",
    ),
    Language(
        "javascript", "main.js", "js", _NODE, aliases=("js", "node"), time_factor=2.0, start_s=0.3, memory_mb=128,
        rejected=r"^SyntaxError: (?s:.*)^    at (wrapSafe|.*compileSourceText)", exhausted=r"heap out of memory", ending=_JS_END,
    ),
    Language(
        "typescript", "main.ts", "ts", _NODE, _TSC, "main.js", ("ts",),
        time_factor=2.0, start_s=0.3, memory_mb=128, exhausted=r"heap out of memory", ending=_JS_END,
    ),
    Language(
        "php", "main.php", "php",
        ("php", "-d", "memory_limit=-1", "-d", "display_errors=stderr", "-d", "log_errors=0", "main.php"),
        time_factor=2.0, start_s=0.2, memory_mb=32, rejected=r"^(PHP )?Parse error: ", exhausted=r"Out of memory",
        ending='\necho "\\nTOKEN\\n";\n',
    ),
    Language(
        "bash", "main.sh", "base", ("bash", "main.sh"), aliases=("sh",), time_factor=5.0,
        rejected=r"\Amain\.sh: line \d+: (syntax error|unexpected EOF)",
        ending="\nprintf '\\n%s%s\\n' HEAD TAIL\n",  # in halves: an open here-document would print the text itself
    ),
)  # fmt: skip
LANGUAGES: dict[str, Language] = {lang.name: lang for lang in _TABLE}
_BY_ALIAS = {alias: lang for lang in _TABLE for alias in (lang.name, *lang.aliases)}

_JAVA_GUARD = """PACKAGE
class K15Guard {
    public static void main(String[] words) throws Throwable {
        MAIN.main(words);
        System.out.println("\\nTOKEN");
    }
}
"""
# By reflection, since C#'s Main is private by default.
_CSHARP_GUARD = """static class K15Guard
{
    static void Main(string[] words)
    {
        var types = typeof(K15Guard).Assembly.GetTypes();
        System.Array.Reverse(types); // the harness comes last, and a solution may have a Main of its own
        foreach (var type in types)
        {
            if (type == typeof(K15Guard) || type.IsNested) continue;
            var main = type.GetMethod("Main", (System.Reflection.BindingFlags)(8 | 16 | 32));
            if (main == null) continue;
            var status = main.Invoke(null, main.GetParameters().Length == 0 ? null : new object[] { words });
            if (!(status is int) || (int)status == 0) System.Console.WriteLine("\\nTOKEN");
            return;
        }
        throw new System.Exception("no Main");
    }
}
"""


@dataclass(frozen=True, slots=True)
class Program:
    """A source text in a language, with further `files` beside it. `token`: see the module; "" for ordinary programs.

    Raises ConfigError for an unknown language or a file name that leaves the working directory.
    """

    language: str
    source: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    token: str = ""
    image: str | None = None

    def __post_init__(self) -> None:
        lang = language(self.language)
        for name in self.files:
            if not _FILE.fullmatch(name) or name == lang.source:
                raise ConfigError(
                    f"{name!r} cannot be the name of a further file: letters, digits and ._- in relative paths without .. , "
                    f"other than {lang.source}."
                )


def language(name: str) -> Language:
    """By name or alias, in any case. Raises ConfigError with the known names."""
    found = _BY_ALIAS.get(name.lower())
    if found is None:
        raise unknown_name("language", name, LANGUAGES)
    return found


def joined(name: str, source: str, harness: str) -> str:
    """A solution and the harness that tests it as one source text."""
    lang = language(name)
    if lang.name == "php":  # after it the harness would be printed, not run
        source = re.sub(r"\?>\s*\Z", "", source)
    return f"{source}{lang.seam}{harness}"


def compile_job(program: Program, limits: Limits = COMPILE_LIMITS) -> Job | None:
    """The job that compiles; its `kept` are the artifacts for `run_job`. None where there is nothing to compile."""
    lang = language(program.language)
    if lang.compile is None:
        return None
    assert lang.keep is not None, f"{lang.name} compiles to nothing"
    sources = _sources(program, lang)
    ends = {"cpp": ".cpp", "java": ".java", "csharp": ".cs"}.get(lang.name)
    env = {"SOURCES": " ".join(n for n in sources if ends and n.endswith(ends)), "LINK": _link(program, lang)}
    return Job(
        ("sh", "-c", lang.compile),
        image=_image(program, lang),
        files=sources,
        keep=(lang.keep,),
        env={**_ENV, **env},
        limits=limits,
    )


def run_job(program: Program, artifacts: Mapping[str, bytes], stdin: bytes, limits: Limits) -> Job:
    """The job of one test. `limits` are final: see `limits_of`."""
    lang = language(program.language)
    env = {**_ENV, **lang.env, "MEM": str(limits.memory_mb)}
    if lang.name == "java":
        guarded = f"{package(program.source)}.K15Guard".lstrip(".")
        env["MAIN"] = guarded if program.token else main_class(program.source)
    carried = {**program.files, **artifacts} if lang.compile is not None else _sources(program, lang)
    return Job(lang.run, image=_image(program, lang), stdin=stdin, files=carried, env=env, limits=limits)


def limits_of(name: str, time_s: float, memory_mb: int, output_bytes: int) -> Limits:
    """A test's limits in this language. Wall-clock time is for what sleeps: generous, since a busy node starves what computes."""
    lang = language(name)
    cpu_s = time_s * lang.time_factor + lang.start_s
    return Limits(
        wall_s=5.0 * cpu_s + 5.0, cpu_s=cpu_s, memory_mb=memory_mb + lang.memory_mb, output_bytes=output_bytes
    )  # fmt: skip


def _image(program: Program, lang: Language) -> str:
    return program.image if program.image is not None else lang.image


def _sources(program: Program, lang: Language) -> dict[str, bytes]:
    """All files of the program by name, guard and support files included."""
    text, token = program.source, program.token
    found = dict(program.files)
    if lang.name == "java":
        if "org.javatuples" in text:
            found |= {"org/javatuples/Pair.java": _support("java/org/javatuples/Pair.java")}
        if token:
            header = f"package {package(text)};" if package(text) else ""
            guard = _JAVA_GUARD.replace("PACKAGE", header).replace("MAIN", main_class(text, last=True)).replace("TOKEN", token)
            found["K15Guard.java"] = guard.encode()
    if lang.name == "csharp" and token:
        found["K15Guard.cs"] = _CSHARP_GUARD.replace("TOKEN", token).encode()
        if not re.search(r"\bclass\s+Debug\b", text):
            found["Debug.cs"] = _support("cs/Debug.cs")
    if lang.name == "typescript":
        found["k15_env.d.ts"] = _support("ts/k15_env.d.ts")
    half = len(token) // 2
    ending = lang.ending.replace("TOKEN", token).replace("HEAD", token[:half]).replace("TAIL", token[half:]) if token else ""
    found[file_name(text) if lang.name == "java" else lang.source] = (text + ending).encode()
    return found


def _link(program: Program, lang: Language) -> str:
    if not program.token:
        return ""
    return {"cpp": "-Wl,--wrap=main", "csharp": "-main:K15Guard"}.get(lang.name, "")


@cache
def _support(name: str) -> bytes:
    return (resources("k15.sandbox") / "support" / name).read_bytes()

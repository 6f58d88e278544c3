"""Problems in DMOJ's format, graded by DMOJ itself inside the sandbox; and what its report means."""

import base64
import contextlib
import io
import platform
import zipfile

import pytest
import requests
from judging import TOKEN, need, served

from k15.errors import ConfigError, DataError, SandboxError
from k15.sandbox.backends.bubblewrap import Bubblewrap
from k15.sandbox.client import DmojSubmission, SandboxClient
from k15.sandbox.dmoj import dmoj_from, parsed
from k15.sandbox.images.store import Images
from k15.sandbox.job import Job, Outcome

INIT = "archive: data.zip\ntest_cases:\n- {in: 1.in, out: 1.out, points: 5}\n- {in: 2.in, out: 2.out, points: 5}\n"
ADD = "#include <iostream>\nint main() { long a, b; std::cin >> a >> b; EXTRA std::cout << a + b << std::endl; }"
SOURCES = {
    "AC": ADD.replace("EXTRA", ""),
    "WA": ADD.replace("EXTRA", "if (a > 5) b++;"),
    "CE": ADD.replace("EXTRA", "#error Test case  1 AC"),
    "RE": ADD.replace("EXTRA", "if (a > 5) __builtin_trap();"),
    "TLE": ADD.replace("EXTRA", "for (volatile long i = 0; a > 5; i++);"),
}


def problem() -> dict[str, bytes]:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, a, b in (("1", 1, 2), ("2", 10, 20)):
            archive.writestr(f"{name}.in", f"{a} {b}\n")
            archive.writestr(f"{name}.out", f"{a + b}\n")
    return {"init.yml": INIT.encode(), "data.zip": data.getvalue()}


@pytest.mark.slow
@pytest.mark.skipif("dmoj" not in Images().names(), reason="no DMOJ judge here: k15 sandbox build dmoj")
def test_dmoj_grades_cpp(tmp_path):
    need("base")
    with served(tmp_path, "--workers", "1") as service, SandboxClient(service.access) as client:
        found = {v: client.judge(DmojSubmission("cpp", source, problem(), 1.0)) for v, source in SOURCES.items()}
        assert {v: r.verdict for v, r in found.items()} == {v: v for v in SOURCES}
        assert [t.verdict for t in found["WA"].tests] == ["AC", "WA"] and (found["WA"].passed, found["WA"].total) == (1, 2)
        assert all(t.cpu_s > 0 and t.memory_mb > 1 for t in found["AC"].tests) and "error" in found["CE"].compile.log
        assert client.judge(DmojSubmission("python", "a, b = map(int, input().split())\nprint(a + b)", problem())).verdict == "AC"
        with pytest.raises(DataError):
            client.judge(DmojSubmission("cpp", SOURCES["AC"], {"init.yml": b"archive: none.zip\ntest_cases: []\n"}))
        asked = {"kind": "dmoi", "language": "cpp", "source": "", "problem": {}}
        answer = requests.post(
            f"{service.access.url}/judge", json=asked, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20
        )
        assert answer.status_code == 400 and "Did you mean 'dmoj'" in answer.json()["error"]
        assert service.stop() == 0


ESCAPE = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for name, number, words in (("attach", 101, (16, 1, 0, 0)), ("seize", 101, (0x4206, 1, 0, 0)), ("unshare", 272, (0x10000000,)),
    ("mount", 165, (b"none", b"/tmp", b"tmpfs", 0, 0)), ("read init", 310, (1, 0, 0, 0, 0, 0)), ("keyctl", 250, (0, 0)),
    ("bpf", 321, (0, 0, 0)), ("setns", 308, (0, 0)), ("io_uring", 425, (1, 0)), ("network", 41, (2, 1, 0))):
    if libc.syscall(number, *words) != -1: print("BROKEN", name)
for path in ("/proc/1/mem", "/proc/1/environ", "/etc/shadow"):
    try: print("BROKEN", path, open(path, "rb").read(1))
    except OSError: pass
child = os.fork()
if not child: os._exit(libc.ptrace(0, 0, 0, 0))  # what DMOJ needs: its own child asks to be traced
print("traced", os.waitpid(child, 0)[1])
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="system calls by their x86-64 numbers")
def test_tracing_reaches_nothing_but_the_jobs_own_children():
    need("base")
    with contextlib.closing(Bubblewrap(tracing=True)) as tracing, contextlib.closing(Bubblewrap()) as plain:
        job = Job(["python3", "-c", ESCAPE])
        assert (tracing.run(job).stdout, plain.run(job).stdout) == (b"traced 0\n", b"traced 65280\n")


def said(*lines: str) -> Outcome:
    return Outcome(
        0, stdout="\n".join(["dmoj> Start grading problem/1 in CPP17...", *lines, "Done grading problem/1.", ""]).encode()
    )


def test_reports_are_read_strictly():
    case = "Test case  1 AC  [0.004s (0.005s wall) | 3492kb | 25 switches (4 involuntary)] "
    batch = ["Batch #1", "  " + case.replace("AC ", "WA "), "  Test case  2 --  "]
    result = parsed(said(*batch))
    assert (result.verdict, result.passed, result.total, len(result.tests)) == ("WA", 0, 2, 1)
    assert parsed(said(case, case.replace(" 1 AC", " 2 MLE") + "(Killed) {RTE}")).verdict == "MLE"
    forged = parsed(said("Failed compiling submission!", "main.cpp: error", case))
    assert forged.verdict == "CE" and forged.tests == ()
    for lines, error in (([case, case], SandboxError), ([case.replace("AC ", "IE ")], SandboxError), (["nothing"], DataError)):
        with pytest.raises(error):
            parsed(said(*lines))
    for outcome, error in ((Outcome(0, stdout=b"unknown problem"), DataError), (Outcome(None, error="no bwrap"), SandboxError),
                           (Outcome(None, limit="wall"), DataError)):  # fmt: skip
        with pytest.raises(error):
            parsed(outcome)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"language": "java"}, "Allowed: cpp, python"),
        ({"problem": {"data.zip": ""}}, "needs its init.yml"),
        ({"problem": {"init.yml": "", "../x": ""}}, "cannot be a file of a problem"),
        ({"problem": []}, "must be an object"),
        ({"problem": {"init.yml": {"base64": "?"}}}, "not base64"),
        ({"memory_mb": 1}, "memory_mb is 1"),
        ({"tests": []}, "a field of the DMOJ submission"),
    ],
)
def test_wrong_submissions_are_refused(change, message):
    right = {
        "language": "cpp",
        "source": "",
        "problem": {"init.yml": "", "a/b.zip": {"base64": base64.b64encode(b"\xff").decode()}},
    }
    assert dmoj_from(right).problem["a/b.zip"] == b"\xff"
    with pytest.raises(ConfigError) as error:
        dmoj_from({**right, **change})
    assert message in str(error.value)

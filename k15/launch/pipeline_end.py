"""The last job of `k15 launch pipeline`: a line in pipeline.log for the stage that was ended from outside, and so wrote none.

    python -m k15.launch.pipeline_end FOLDER NAME=JOB ...      the stages that were submitted, in their order

It runs once all of them have ended: time limits, scancel, lost nodes, and scripts that end before their command begins.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from k15.launch.status import slurm_job
from k15.log.sweep import is_finished


def main(argv: Sequence[str]) -> int:
    """Writes at most one line: stages behind the one that ended so have not started."""
    folder, jobs = Path(argv[0]), dict(word.split("=") for word in argv[1:])
    log = folder / "pipeline.log"
    said = log.read_text() if log.is_file() else ""
    for number, (name, job) in enumerate(jobs.items()):
        if is_finished(folder / name):
            continue
        if f"stage {name} (job {job}) " not in said:
            line = f"k15: stage {name} (job {job}) did not end well: {reason(job)}{stops([*jobs][number + 1 :])}\n"
            with log.open("a") as file:
                file.write(line)
            print(line, end="")
        break
    return 0


def stops(rest: Sequence[str]) -> str:
    """The end of a line on a stage that failed."""
    return f"; the chain stops: {', '.join(rest)} not started" if rest else ""


def reason(job: str) -> str:
    """Slurm's words for how a job ended, e.g. `TIMEOUT (TimeLimit)`: of the controller, else of accounting."""
    fields = slurm_job(job)
    if not fields:
        fields = accounted(job)
    state = fields.get("JobState", "Slurm no longer knows how")
    why = [w for w in (fields.get("Reason"), _code(fields)) if w not in (None, "", "None")]
    return f"{state} ({', '.join(why)})" if why else state


def _code(fields: Mapping[str, str]) -> str | None:
    code = fields.get("ExitCode", "0:0")
    return None if code == "0:0" else f"exit {code}"


def accounted(job: str) -> dict[str, str]:
    """What sacct has of a job that the controller has forgotten; {} where there is no accounting."""
    try:
        command = ["sacct", "-n", "-P", "-X", "-j", job, "-o", "State,ExitCode"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines() if "|" in line]
    return {"JobState": rows[-1][0], "ExitCode": rows[-1][1]} if done.returncode == 0 and rows else {}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`python -m benchmarks.partial.job RUN_DIR WORDS...`: the benchmark's job, a node as that of `k15 rl` but for its controller."""

import sys

from k15.config.check import check
from k15.config.compose import compose_run
from k15.config.schema import RunConfig
from k15.runs.job import Job


def main(run_dir: str, words: list[str]) -> int:
    """The exit code of the controller."""
    return Job("rl", RunConfig, check, "benchmarks.partial.controller").run(compose_run([*words, f"run_dir={run_dir}"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))

"""`python -m benchmarks.reward_models`: see `run`."""

import sys

from benchmarks.reward_models.run import main

sys.exit(main(sys.argv[1:]))

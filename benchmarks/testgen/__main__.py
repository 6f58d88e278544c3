"""`python -m benchmarks.testgen`."""

import sys

from benchmarks.testgen.run import main

sys.exit(main(sys.argv[1:]))

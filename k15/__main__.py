import sys

from k15.cli import main

sys.exit(main())

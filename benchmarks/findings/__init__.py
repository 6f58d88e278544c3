"""The report's findings repeated at small scale: runs of arms (`arms`), what is made of them, `run` the command."""

"""Kernel benchmarks: correctness gate first, then peers side by side in one process against ceilings measured in the same run."""

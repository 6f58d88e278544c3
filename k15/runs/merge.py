"""`k15 merge DIR DIR [DIR ...] --out DIR [--weights W W ...]`: the average of models as a new Hugging Face folder (report 2.4).

Plain average, or weighted (weights are divided by their sum). The folders must hold the same architecture, names, shapes and
tokenizer; files and types of the result are those of the first. Streamed: memory is some tens of megabytes beyond PyTorch itself.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from k15.eval.progress import Bar
from k15.log import get_logger


def main(words: Sequence[str]) -> int:
    """The command; returns the exit code. Raises ConfigError and DataError."""
    parser = argparse.ArgumentParser("k15 merge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dirs", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--out", required=True, type=Path, help="the new folder")
    parser.add_argument("--weights", nargs="+", type=float, help="one for each DIR; without: all alike")
    given = parser.parse_args(list(words))
    from k15.long2short.merge import merge  # brings torch

    out = merge(given.dirs, given.out, given.weights, lambda tensors: Bar("merge: tensors", tensors).add)
    get_logger("merge").info("%s: the average of %d models", out, len(given.dirs))
    return 0

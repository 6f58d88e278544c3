"""All kernel benchmarks of this device, one after the other, and a chart of each: `python -m benchmarks kernels [--quick]`."""

import argparse
import json
from importlib import import_module
from pathlib import Path

from benchmarks.kernels import frame

NAMES = ("logprob", "pmd", "repetition", "train_step")


def main(words: list[str] | None = None) -> int:
    """The worst exit code: 1 where a gate of k15's is red."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few sizes, few repeats")
    parser.add_argument("--out", type=Path, default=frame.RESULTS, help="folder for the JSON files and charts")
    args = parser.parse_args(words)
    codes = []
    for name in NAMES:
        path = args.out / f"kernel-{name.replace('_', '-')}-{frame.machine.today()}-{frame.kind(frame.the_device())}.json"
        codes.append(import_module(f"benchmarks.kernels.{name}").main(["--out", str(path), *(["--quick"] * args.quick)]))
        if name == "logprob" and path.exists():
            chart(json.loads(path.read_text()), path.with_suffix(".png"))
    return max(codes)


def chart(result: dict, path: Path) -> None:
    """Forward-and-backward seconds and peak memory of every contender and size, log scale, one panel each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [r for r in result["rows"] if "forward_backward_s" in r]
    sizes = list(dict.fromkeys((r["tokens"], r["hidden"], r["vocab"]) for r in rows))
    names = list(dict.fromkeys(r["name"] for r in rows))
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    panels = {"forward_backward_s": "seconds", "peak_beyond_gradients_mb": "MB beyond inputs and gradients"}
    for axis, (key, label) in zip(axes, panels.items()):
        for i, name in enumerate(names):
            values = {(r["tokens"], r["hidden"], r["vocab"]): r[key] for r in rows if r["name"] == name}
            shift = (i - (len(names) - 1) / 2) * 0.8 / len(names)
            at = [s + shift for s, size in enumerate(sizes) if size in values]
            axis.bar(at, [max(values[s], 1e-9) for s in sizes if s in values], 0.8 / len(names), label=name)
        axis.set_yscale("log")
        axis.set_ylabel(label)
        axis.set_xticks(range(len(sizes)), [f"T {t:,}\nH {h:,}\nV {v:,}" for t, h, v in sizes], fontsize=7)
    axes[0].legend(fontsize=7, frameon=False)
    figure.suptitle(f"linear -> log-prob, forward and backward, {result['dtype'].removeprefix('torch.')}", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)

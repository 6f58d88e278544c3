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
        if name in CHARTS and path.exists():
            chart(name, json.loads(path.read_text()), path.with_suffix(".png"))
    return max(codes)


def chart(name: str, result: dict, path: Path) -> None:
    """Every contender at every size, log scale, one panel a figure of CHARTS."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    title, size_of, label_of, panels = CHARTS[name]
    rows = [r for r in result["rows"] if next(iter(panels)) in r]
    sizes = list(dict.fromkeys(tuple(r[k] for k in size_of) for r in rows))
    names = list(dict.fromkeys(r["name"] for r in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(5.5 * len(panels), 3.8), layout="constrained", squeeze=False)
    for axis, (key, label) in zip(axes[0], panels.items()):
        for i, contender in enumerate(names):
            values = {tuple(r[k] for k in size_of): r[key] for r in rows if r["name"] == contender}
            shift = (i - (len(names) - 1) / 2) * 0.8 / len(names)
            at = [s + shift for s, size in enumerate(sizes) if size in values]
            axis.bar(at, [max(values[s], 1e-9) for s in sizes if s in values], 0.8 / len(names), label=contender)
        axis.set_yscale("log")
        axis.set_ylabel(label)
        axis.set_xticks(range(len(sizes)), [label_of.format(*size) for size in sizes], fontsize=7)
    axes[0][0].legend(fontsize=7, frameon=False)
    figure.suptitle(title.format(result.get("dtype", "torch.float32").removeprefix("torch.")), fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


# name -> title, what a size is, its label, and the panels; the first panel's figure is there for every contender measured.
CHARTS = {
    "logprob": (
        "linear -> log-prob, forward and backward, {}", ("tokens", "hidden", "vocab"), "T {:,}\nH {:,}\nV {:,}",
        {"forward_backward_s": "seconds", "peak_beyond_gradients_mb": "MB beyond inputs and gradients"},
    ),
    "pmd": (
        "log-probs -> policy loss and gradient, {}", ("tokens", "spread"), "T {:,}\n{}",
        {"seconds": "seconds, with the host", "gb_s": "GB/s of the bytes that must move"},
    ),
}  # fmt: skip

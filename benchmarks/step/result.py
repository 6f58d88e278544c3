"""From checked runs to figures: samples/s, ratio, phases; as JSON, as text and as a bar chart."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.step.gate import first_reward, mean_length
from benchmarks.step.record import Run
from benchmarks.step.settings import Work

TARGET = 2.0  # k15 over TRL
SIDES = {"k15": "k15", "trl": "TRL GRPOTrainer"}


class GateError(RuntimeError):
    """The sides did not do the same work; no speed is given."""


def summary(runs: Sequence[Run], work: Work, faults: Sequence[str], place: dict[str, object]) -> dict[str, object]:
    """The result as plain JSON values. Raises GateError where the gate found faults."""
    if faults:
        raise GateError("no speed is given, since the two sides cannot be compared:\n- " + "\n- ".join(faults))
    sides = {side: side_summary([r for r in runs if r.side == side], work) for side in SIDES}
    ratio = sides["k15"]["samples_per_s"] / sides["trl"]["samples_per_s"]
    blocks = [k / t for k, t in zip(sides["k15"]["block_samples_per_s"], sides["trl"]["block_samples_per_s"], strict=True)]
    return {
        "benchmark": "step", **place, "work": asdict(work), "sides": sides, "ratio": ratio, "ratio_by_block": blocks,
        "target_ratio": TARGET, "reached": ratio >= TARGET, "in_the_way": in_the_way(sides["k15"], sides["trl"]),
    }  # fmt: skip


def side_summary(runs: Sequence[Run], work: Work) -> dict[str, object]:
    """Median speed over all counted iterations of all blocks; mean seconds by phase; what the gate looked at."""
    walls = [i.wall_s for r in runs for i in r.counted()]
    reward, error = first_reward(runs)
    return {
        "setting": runs[0].setting,
        "samples_per_s": work.samples / statistics.median(walls),
        "block_samples_per_s": [work.samples / statistics.median(i.wall_s for i in r.counted()) for r in runs],
        "iteration_s": [[i.wall_s for i in r.iterations] for r in runs],
        "phases_s": averages([i.phases_s for r in runs for i in r.counted()]),
        "details_s": averages([i.details_s for r in runs for i in r.counted()]),
        "mean_length": mean_length(runs),
        "first_reward": reward,
        "first_reward_standard_error": error,
        "weights_moved": max(r.weights_moved for r in runs),
        "versions": runs[0].versions,
    }


def averages(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Median of each name over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: statistics.median(row[name] for row in rows if name in row) for name in names}


def in_the_way(k15: dict, trl: dict) -> str:
    """The part of k15's iteration that stands most between it and TARGET, with seconds."""
    need = sum(trl["phases_s"].values()) / TARGET
    have = sum(k15["phases_s"].values())
    largest = max(k15["phases_s"], key=k15["phases_s"].get)
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in k15["phases_s"].items())
    if have <= need:
        return f"nothing: {have:.2f} s an iteration, {need:.2f} s would do ({parts})"
    return f"{largest}: {have:.2f} s an iteration, {need:.2f} s are needed ({parts})"


def text(result: dict) -> str:
    """The result in a few lines."""
    lines = []
    for side, name in SIDES.items():
        s = result["sides"][side]
        phases = ", ".join(f"{p} {seconds:.2f}" for p, seconds in s["phases_s"].items())
        lines.append(f"{name:16s} {s['samples_per_s']:8.1f} samples/s   ({s['setting']}; seconds: {phases})")
    spread = ", ".join(f"{r:.2f}" for r in result["ratio_by_block"])
    lines.append(f"{'ratio':16s} {result['ratio']:8.2f}   (by block: {spread}; target {result['target_ratio']:g})")
    if not result["reached"]:
        lines.append(f"in the way: {result['in_the_way']}")
    if result["under_load"]:
        lines.append("TAKEN UNDER LOAD: other processes were busy; not a figure to quote")
    return "\n".join(lines)


def write(result: dict, folder: Path, stem: str) -> Path:
    """`stem`.json and `stem`.png in `folder`; returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    chart(result, path.with_suffix(".png"))
    return path


def chart(result: dict, path: Path) -> None:
    """Seconds of an iteration by phase, one bar a side."""
    import matplotlib as mpl

    from k15.eval.plot_style import SERIES, STYLE, new_figure

    phases = ("rollout", "reward", "train", "weights", "other")
    with mpl.rc_context(STYLE):
        figure, (ax,) = new_figure(6.4, 2.0)
        names = list(SIDES)[::-1]
        for phase, colour in zip(phases, SERIES, strict=False):
            left = [sum(result["sides"][n]["phases_s"].get(p, 0.0) for p in phases[: phases.index(phase)]) for n in names]
            width = [result["sides"][n]["phases_s"].get(phase, 0.0) for n in names]
            ax.barh([SIDES[n] for n in names], width, left=left, color=colour, label=phase, height=0.55)
        for y, n in enumerate(names):
            s = result["sides"][n]
            ax.annotate(f" {s['samples_per_s']:.0f} samples/s", (sum(s["phases_s"].values()), y), va="center")
        ax.set_xlim(0, 1.3 * max(sum(s["phases_s"].values()) for s in result["sides"].values()))
        ax.set_xlabel("seconds an iteration")
        ax.grid(False)
        work = result["work"]
        ax.set_title(
            f"{work['prompts_per_iteration']} prompts x {work['samples_per_prompt']} on {result['device']['cores']} CPU cores: "
            f"{result['ratio']:.1f}x{' (under load)' if result['under_load'] else ''}"
        )
        ax.legend(ncols=len(phases), loc="upper center", bbox_to_anchor=(0.5, -0.35))
        figure.savefig(path, dpi=150)

"""The Classic reward model's text and calibration (report 2.3.5). Torch-free: the model itself is `k15.train.reward_head`.

    (question, reference, response) -> input_text -> tokens -> value head -> logit -> Calibration -> probability

A reward model trained to the end is over-confident; `fit_calibration` finds, on held-out labels, the two numbers of
p = sigmoid(slope * logit + intercept) (Platt 1999; with intercept 0 it is temperature scaling, Guo et al. 2017), and
`expected_calibration_error` says what is left.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from k15.errors import DataError, unknown_name
from k15.types import Triple

INPUTS = {
    "plain": "Question:\n{question}\n\nReference answer:\n{reference}\n\nResponse:\n{response}\n\nCorrect:",
    "compact": "{question}\n{reference}\n{response}\n>",
}
"""The scalar is read at the last token. `compact` is for the tiny model, whose tokenizer knows no words."""
TAIL_CHARS = 20_000  # of a response: its final answer stands at the end
CALIBRATIONS = ("platt", "temperature", "none")
FILE = "calibration.json"  # beside the export's config.json


def input_text(triple: Triple, template: str = "plain") -> str:
    """What the model reads; the label is not in it. Raises ConfigError for an unknown template."""
    if template not in INPUTS:
        raise unknown_name("template", template, INPUTS)
    return INPUTS[template].format(question=triple.question, reference=triple.reference, response=triple.response[-TAIL_CHARS:])


@dataclass(frozen=True, slots=True)
class Calibration:
    """Probability of "correct" = sigmoid(slope * logit + intercept)."""

    slope: float = 1.0
    intercept: float = 0.0

    def probability(self, logit: float) -> float:
        return float(_sigmoid(np.array([self.slope * logit + self.intercept]))[0])


def save_calibration(folder: Path, calibration: Calibration, template: str) -> None:
    """Write FILE into an export's folder: what turns a triple into text, and a logit into a probability."""
    (folder / FILE).write_text(json.dumps(asdict(calibration) | {"template": template}, indent=2) + "\n")


def load_calibration(folder: Path) -> tuple[Calibration, str]:
    """(calibration, template) of an export's folder. Raises DataError where it has none or a broken one."""
    try:
        values = json.loads((folder / FILE).read_text())
        found = Calibration(float(values["slope"]), float(values["intercept"])), str(values["template"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / FILE} is no calibration ({error!r}); export the reward model again.") from None
    input_text(Triple("", "", ""), found[1])
    return found


def fit_calibration(logits: Sequence[float], labels: Sequence[bool], method: str = "platt") -> Calibration:
    """The calibration with the least cross-entropy on these (held-out) labels, by Newton's method with step halving.

    Platt's smoothed targets, (n + 1)/(n + 2) and 1/(n + 2), keep it finite where a threshold separates the labels.
    Raises DataError where the labels are all alike, ConfigError for an unknown method.
    """
    if method not in CALIBRATIONS:
        raise unknown_name("calibration", method, CALIBRATIONS)
    if method == "none":
        return Calibration()
    right = np.asarray(labels, dtype=bool)
    if len(logits) != len(right) or right.all() or not right.any():
        raise DataError(f"calibration needs right and wrong held-out triples; {int(right.sum())} of {len(right)} are right.")
    positive, negative = int(right.sum()), int((~right).sum())
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (negative + 2))
    x = np.asarray(logits, dtype=float)
    design = np.stack([x, np.ones_like(x)], axis=1)[:, : 2 if method == "platt" else 1]
    beta = _logistic(design, target)
    return Calibration(float(beta[0]), float(beta[1]) if method == "platt" else 0.0)


def _logistic(design: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The minimiser of the (convex) cross-entropy of sigmoid(design @ beta) with targets strictly inside 0..1."""
    beta = np.zeros(design.shape[1])

    def loss(b: np.ndarray) -> float:
        z = design @ b
        return float((np.logaddexp(0, z) - target * z).sum())

    for _ in range(100):
        p = _sigmoid(design @ beta)
        gradient = design.T @ (p - target)
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-9 * np.eye(len(beta))
        step, size, here = np.linalg.solve(curvature, gradient), 1.0, loss(beta)
        while size > 1e-8 and loss(beta - size * step) > here:
            size /= 2
        beta = beta - size * step
        if float(np.abs(gradient).max()) < 1e-8 * len(target):
            break
    return beta


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return np.where(z >= 0, 1 / (1 + np.exp(-np.abs(z))), np.exp(-np.abs(z)) / (1 + np.exp(-np.abs(z))))


@dataclass(frozen=True, slots=True)
class Bin:
    """Triples whose probability of "correct" is in [low, high): how many, their mean probability, their share of right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> list[Bin]:
    """The calibration curve over equal-width bins, empty ones left out. Raises DataError for empty or uneven input."""
    if not len(probabilities) or len(probabilities) != len(labels):
        raise DataError(f"a calibration curve needs a label each; got {len(probabilities)} and {len(labels)}.")
    p, right = np.asarray(probabilities, dtype=float), np.asarray(labels, dtype=float)
    place = np.minimum((p * bins).astype(int), bins - 1)
    found = []
    for i in range(bins):
        here = place == i
        if here.any():
            mean, share = float(p[here].mean()), float(right[here].mean())
            found.append(Bin(i / bins, (i + 1) / bins, int(here.sum()), mean, share))
    return found


def expected_calibration_error(probabilities: Sequence[float], labels: Sequence[bool], bins: int = 10) -> float:
    """Mean over triples of |accuracy - confidence| of their bin (Guo et al. 2017): 0 is perfect."""
    curve = reliability(probabilities, labels, bins)
    return math.fsum(b.count * abs(b.accuracy - b.confidence) for b in curve) / len(probabilities)

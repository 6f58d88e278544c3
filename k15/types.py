"""The records that travel round the loop. Frozen, torch-free, picklable; every room speaks in these.

    Prompt -> Rollout (Segments) -> Group -> Score -> Sample -> Batch -> weights (a version number) -> Rollout ...

Lengths are in tokens. Token ids are plain ints in tuples, so that a record can be hashed, logged and compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Finish = Literal["stop", "length", "repetition", "budget", "abort"]
"""Why a segment ended: end of sequence; maximum response length; stopped on a repetition; token budget of this
iteration spent (to be continued); aborted by the controller (to be continued)."""

FINISHED: frozenset[str] = frozenset({"stop", "length", "repetition"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """One problem. `difficulty` is the user's own label (higher is harder) or None."""

    id: str
    text: str
    answer: str
    domain: str = "math"
    difficulty: float | None = None
    meta: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens that one weight version sampled in one iteration, with the behaviour log-probabilities.

    `logprobs[t]` is the log-probability (natural log) of `tokens[t]` under the weights `version`.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    version: int
    finish: Finish

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.logprobs):
            raise ValueError(f"a segment has {len(self.tokens)} tokens but {len(self.logprobs)} log-probs")


@dataclass(frozen=True, slots=True)
class Rollout:
    """One trajectory: the `index`-th of k responses to a prompt, made of one or more segments."""

    prompt_id: str
    index: int
    seed: int
    prompt_tokens: tuple[int, ...]
    segments: tuple[Segment, ...] = ()

    @property
    def response_tokens(self) -> tuple[int, ...]:
        return tuple(t for s in self.segments for t in s.tokens)

    @property
    def response_logprobs(self) -> tuple[float, ...]:
        return tuple(p for s in self.segments for p in s.logprobs)

    @property
    def length(self) -> int:
        """Response tokens sampled so far."""
        return sum(len(s.tokens) for s in self.segments)

    @property
    def finish(self) -> Finish | None:
        return self.segments[-1].finish if self.segments else None

    @property
    def finished(self) -> bool:
        return self.finish in FINISHED

    def extended(self, segment: Segment) -> "Rollout":
        """This rollout with one more segment; a finished rollout cannot be extended."""
        assert not self.finished, "a finished rollout was continued"
        return Rollout(self.prompt_id, self.index, self.seed, self.prompt_tokens, (*self.segments, segment))


@dataclass(frozen=True, slots=True)
class Group:
    """All k rollouts of one prompt; the unit that rewards, baselines and length rewards work on."""

    prompt: Prompt
    rollouts: tuple[Rollout, ...]

    @property
    def finished(self) -> bool:
        return all(r.finished for r in self.rollouts)


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of one rollout: `parts` by name (already weighted), `total` their sum, `correct` the verdict."""

    correct: bool
    parts: Mapping[str, float]
    reason: str = ""

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True)
class Sample:
    """One sequence as the trainer sees it: `tokens` = prompt + response.

    `loss_mask[t]` belongs to response token t (len = len(tokens) - prompt_len), 1 where it counts in the loss.
    `weight` multiplies the sequence's loss; None means 1 / (number of samples in the mini-batch). `correct`: the verdict,
    which the loss `rest` selects by; None where there is none.
    """

    tokens: tuple[int, ...]
    prompt_len: int
    loss_mask: tuple[int, ...]
    reward: float = 0.0
    baseline: float = 0.0
    weight: float | None = None
    group: int = 0
    correct: bool | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.prompt_len < len(self.tokens):
            raise ValueError(f"prompt_len {self.prompt_len} must be in 1..{len(self.tokens) - 1} (sequence length - 1)")
        if len(self.loss_mask) != len(self.tokens) - self.prompt_len:
            raise ValueError(
                f"the loss mask has {len(self.loss_mask)} entries for {len(self.tokens) - self.prompt_len} response tokens"
            )


@dataclass(frozen=True, slots=True)
class Batch:
    """What one iteration trains on; `version` names the weights theta_i that are its reference."""

    samples: tuple[Sample, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Triple:
    """What a reward model judges (report 2.3.5): does `response` reach `reference` as the answer to `question`?

    `correct`: the label, None where there is none. `kind`: how the response was made, for breakdowns. `judgement`: a
    judge's text on it, reasoning and verdict, which a Chain-of-thought judge is trained on; empty where there is none.
    """

    question: str
    reference: str
    response: str
    correct: bool | None = None
    kind: str = ""
    judgement: str = ""

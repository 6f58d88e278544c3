"""What long2short chooses from: the judged answers to one prompt. Torch-free, plain JSON both ways."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled response. `length` in tokens; `whole`: it ended by itself, not at a limit or on a repetition."""

    text: str
    length: int
    correct: bool
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt with its sampled answers, in the order of sampling."""

    prompt: str
    answers: tuple[Answer, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @staticmethod
    def from_json(row: Mapping) -> "Answered":
        return Answered(row["prompt"], tuple(Answer(**a) for a in row["answers"]))

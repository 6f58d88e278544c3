"""The numbers of test generation; defaults are the report's (section 2.3.5) where it gives them. Torch-free."""

import dataclasses
import math
from dataclasses import dataclass

from k15.errors import ConfigError

_POSITIVE = (
    "cases", "submissions", "agree", "passing", "min_valid", "workers", "attempts", "max_tokens", "max_input_kb", "max_output_kb",
    "request_kb", "time_s", "memory_mb", "case_time_s", "case_memory_mb", "temperature", "context_tokens",
)  # fmt: skip
_ELSEWHERE = (
    "workers",
    "request_kb",
    "attempts",
    "temperature",
    "top_p",
    "max_tokens",
    "context_tokens",
)  # nothing that a verdict depends on


@dataclass(frozen=True, slots=True)
class TestgenSettings:
    """Raises ConfigError for numbers that contradict each other.

    cases, submissions            inputs made and ground-truth submissions drawn a problem (report: 50, 10)
    agree                         submissions whose outputs must match for a case to be valid (7)
    passing                       submissions that must pass all valid cases for a problem to be kept (9)
    min_valid                     valid cases without which a generator is dropped (40)
    distinct                      an input that was made before counts once (the report does not say)
    disputed                      special judge, measured: share of the cases whose runs ended well and in the right format, but
                                  without agreement, from which on the problem is taken to have several right answers
    seed                          of the choice of submissions and of every case
    time_s, memory_mb             limits of a submission's run (processor time, for C++; see sandbox.wire.Submission)
    case_time_s, case_memory_mb   limits of the generator, a case
    max_input_kb, max_output_kb   a case with a longer input or output is not valid (KB are 1,024 bytes; characters of output)
    request_kb                    inputs sent to the sandbox in one request
    workers                       problems at once
    attempts                      generators that the model may write for one problem, until one is good
    temperature, top_p, max_tokens  of the model that writes generators
    context_tokens                the model's context; a statement that does not fit gets no generator
    """

    __test__ = False  # no test class, whatever its name

    cases: int = 50
    submissions: int = 10
    agree: int = 7
    passing: int = 9
    min_valid: int = 40
    distinct: bool = True
    disputed: float = 0.2
    seed: int = 0
    time_s: float = 2.0
    memory_mb: int = 256
    case_time_s: float = 5.0
    case_memory_mb: int = 512
    max_input_kb: int = 1024
    max_output_kb: int = 256
    request_kb: int = 6144
    workers: int = 4
    attempts: int = 1
    temperature: float = 0.7
    top_p: float = 0.95
    max_tokens: int = 2048
    context_tokens: int = 32768

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"{name} is {value}, but it must be greater than 0.")
        for low, high in (("agree", "submissions"), ("passing", "submissions"), ("min_valid", "cases")):
            if getattr(self, low) > getattr(self, high):
                raise ConfigError(f"{low} is {getattr(self, low)}, but can be at most {high} = {getattr(self, high)}.")
        if 2 * self.agree <= self.submissions:
            raise ConfigError(f"agree is {self.agree} of {self.submissions}: two answers could both win. Give more than half.")
        if not 0 < self.disputed <= 1 or not 0 < self.top_p <= 1:
            raise ConfigError(f"disputed ({self.disputed}) and top_p ({self.top_p}) must be above 0 and at most 1.")
        if self.max_output_kb > 1000:
            raise ConfigError(f"max_output_kb is {self.max_output_kb}; the sandbox returns at most 1000.")

    def validation(self) -> dict[str, object]:
        """What a problem's result depends on, beside the problem: part of its key in the journal."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in _ELSEWHERE}

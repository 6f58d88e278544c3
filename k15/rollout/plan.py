"""How a rollout phase samples, and whether that fits its rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass

from k15.config.schema import RepetitionConfig
from k15.errors import ConfigError
from k15.types import Rollout


@dataclass(frozen=True, slots=True)
class Plan:
    """How a phase samples; token counts are per rollout, `budget_tokens` in this phase, `max_response_tokens` in all.

    `max_concurrent`: sequences that an engine runs at once. It gets an eighth more, which wait inside it, so that no
    slot stays empty while an answer travels (measured: 14 % more tokens/s at 16 tokens a response).
    """

    temperature: float
    top_p: float
    budget_tokens: int
    max_response_tokens: int
    repetition: RepetitionConfig
    max_concurrent: int
    max_retries: int


def check_plan(plan: Plan, rollouts: Sequence[Rollout], max_context_tokens: int) -> None:
    """Raises ConfigError for a plan that cannot be run on these rollouts."""
    if plan.budget_tokens < 1 or plan.max_response_tokens < 1:
        raise ConfigError(
            f"budget_tokens {plan.budget_tokens} and max_response_tokens {plan.max_response_tokens} must be at least 1"
        )
    if plan.repetition.enabled and plan.repetition.min_repeats < 2:
        raise ConfigError(f"rollout.repetition.min_repeats is {plan.repetition.min_repeats}; it must be at least 2")
    for r in rollouts:
        if not r.prompt_tokens or len(r.prompt_tokens) + plan.max_response_tokens > max_context_tokens:
            raise ConfigError(
                f"prompt {r.prompt_id!r} has {len(r.prompt_tokens)} tokens; with max_response_tokens "
                f"{plan.max_response_tokens} it must have 1..{max_context_tokens - plan.max_response_tokens} to fit "
                f"model.max_context_tokens {max_context_tokens}. Raise that, lower rollout.max_response_tokens, or "
                "leave the prompt out."
            )
        if r.length >= plan.max_response_tokens:
            raise ConfigError(
                f"unfinished rollout {r.index} of prompt {r.prompt_id!r} already has {r.length} tokens, "
                f"but max_response_tokens is {plan.max_response_tokens}: it was lowered in between"
            )

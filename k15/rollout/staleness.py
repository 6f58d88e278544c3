"""Which response tokens count in the loss, and the check that every rollout's lengths agree."""

from k15.errors import EngineError
from k15.types import Rollout


def loss_mask(rollout: Rollout, newest_only: bool) -> tuple[int, ...]:
    """1 where a response token counts; always as long as the response.

    `newest_only`: only tokens of the newest weight version (report 2.6.2: older segments need no on-policy
    computation). Segments of one version, as an abort and resume leave them, are on-policy alike.
    """
    newest = max((s.version for s in rollout.segments), default=None)
    mask = tuple(int(not newest_only or s.version == newest) for s in rollout.segments for _ in s.tokens)
    assert len(mask) == rollout.length
    return mask


def spent(rollout: Rollout, version: int) -> int:
    """Tokens that `version` has sampled of it: what is gone of the iteration's budget, also over a restart."""
    return sum(len(s.tokens) for s in rollout.segments if s.version == version)


def check_lengths(rollout: Rollout, max_response_tokens: int) -> None:
    """Raises EngineError unless tokens, log-probs and mask have one length, of at most `max_response_tokens`."""
    lengths = {len(rollout.response_tokens), len(rollout.response_logprobs), len(loss_mask(rollout, False))}
    where = f"rollout {rollout.index} of prompt {rollout.prompt_id!r}"
    if lengths != {rollout.length}:
        raise EngineError(f"{where}: tokens, log-probs and mask have lengths {sorted(lengths)}")
    if rollout.length > max_response_tokens:
        raise EngineError(f"{where} has {rollout.length} tokens, more than max_response_tokens {max_response_tokens}")
    versions = [s.version for s in rollout.segments]
    if versions != sorted(versions):
        raise EngineError(f"{where} was continued by older weights: versions {versions}")

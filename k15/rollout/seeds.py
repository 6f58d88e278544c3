"""Seeds that depend on names, not on order: the same rollout samples alike whichever engine runs it, and when."""

import hashlib
import json

from k15.types import Group, Prompt, Rollout


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from `parts` (BLAKE2b of their JSON; Python's hash() differs between processes)."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def segment_seed(run_seed: int, rollout: Rollout) -> int:
    """The seed of the next segment of `rollout`: another one for each segment, the same when it is tried again."""
    return derive_seed(run_seed, rollout.prompt_id, rollout.index, rollout.seed, len(rollout.segments))


def new_group(prompt: Prompt, prompt_tokens: tuple[int, ...], k: int, *, run_seed: int, draw: int) -> Group:
    """k unstarted rollouts of `prompt`. `draw` tells repeated draws of a prompt apart (the iteration's number)."""
    return Group(
        prompt,
        tuple(
            Rollout(prompt.id, i, derive_seed(run_seed, "rollout", prompt.id, i, draw), tuple(prompt_tokens)) for i in range(k)
        ),
    )

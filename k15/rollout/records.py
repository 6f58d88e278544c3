"""Groups as JSON, for checkpoints and rollouts/*.jsonl. Floats survive exactly (repr of a double)."""

from collections.abc import Mapping
from dataclasses import fields

from k15.errors import DataError
from k15.types import Group, Prompt, Rollout, Segment


def group_to_json(group: Group) -> dict:
    """Plain dicts, lists and numbers; `prompt.meta` must be JSON-able itself."""
    return {
        "prompt": _flat(group.prompt) | {"meta": dict(group.prompt.meta)},
        "rollouts": [_rollout(r) for r in group.rollouts],
    }


def _flat(record: object) -> dict:
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _rollout(r: Rollout) -> dict:
    segments = [_flat(s) | {"tokens": list(s.tokens), "logprobs": list(s.logprobs)} for s in r.segments]
    return _flat(r) | {"prompt_tokens": list(r.prompt_tokens), "segments": segments}


def group_from_json(row: Mapping) -> Group:
    """The inverse of `group_to_json`. Raises DataError for anything else."""
    try:
        prompt = Prompt(**row["prompt"])
        rollouts = []
        for r in row["rollouts"]:
            segments = tuple(
                Segment(**{**s, "tokens": tuple(s["tokens"]), "logprobs": tuple(s["logprobs"])}) for s in r["segments"]
            )
            rollouts.append(Rollout(**{**r, "prompt_tokens": tuple(r["prompt_tokens"]), "segments": segments}))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"not a saved group: {error!r}") from error
    return Group(prompt, tuple(rollouts))

"""Sampling the answers of a task that are still missing, at most so many at once."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from k15.eval.endpoint import Endpoint, Sampling
from k15.eval.progress import Bar
from k15.eval.responses import Key, Responses

Asked = Mapping[str, Sequence[int] | str]
"""What is sent, by the problem's id: token ids, or text."""


async def generate(
    endpoint: Endpoint, asked: Asked, samples: int, sampling: Sampling, stops: Mapping[str, tuple[str, ...]], seed: int,
    store: Responses, concurrency: int, label: str,
) -> None:  # fmt: skip
    """Sample `samples` answers to each problem and add them to `store`. `stops`: by problem, in place of `sampling.stop`.
    Raises EngineError; what came until then is kept."""
    missing: list[Key] = [(i, n) for i in asked for n in range(samples) if (i, n) not in store.found]
    if not missing:
        return
    bar, waiting = Bar(label, len(missing), "tok"), iter(missing)

    async def worker() -> None:
        for key in waiting:  # shared: each answer is taken once
            own = replace(sampling, stop=stops.get(key[0], sampling.stop))
            answer = await endpoint.answer(asked[key[0]], own, answer_seed(seed, key))
            store.add(key, answer)
            bar.add(counted=answer.tokens)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(missing))):
                tasks.create_task(worker())
    except ExceptionGroup as group:  # the others were cancelled; callers know one error, not a group
        raise group.exceptions[0] from group


def answer_seed(seed: int, key: Key) -> int:
    """Of one answer: the same whatever else is asked, and in which order."""
    return random.Random(f"k15 eval {seed} {key[0]} {key[1]}").getrandbits(31)

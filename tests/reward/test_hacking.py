"""Anti-hacking filters: guesses without reasoning, and prompts that state their answers."""

import asyncio
import json
import os
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from k15.reward.hacking import GUESS_SUFFIX, easy_to_hack, engine_sampler, guess, leaks_answer
from k15.reward.math import verdicts
from k15.rollout.client import EngineClient, engine_session
from k15.types import Prompt


def test_right_within_eight_guesses() -> None:
    assert easy_to_hack([False] * 7 + [True]) and not easy_to_hack([False] * 8 + [True])
    assert easy_to_hack([False, True], guesses=2)
    with pytest.raises(ValueError, match=r"7 guesses, but the rule needs 8"):
        easy_to_hack([True] * 7)


async def test_guessing_asks_each_prompt_without_reasoning_and_keeps_the_order() -> None:
    """A policy that always says yes: yes-no questions are hackable, numbers are not; no more than 3 at a time."""
    prompts = [Prompt(str(i), f"question {i}?", "\\text{yes}" if i % 3 == 0 else str(i)) for i in range(20)]
    asked, now, most = [], 0, 0

    async def sample(text: str, n: int) -> list[str]:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        asked.append(text)
        await asyncio.sleep(0.001 * (20 - len(asked)))
        now -= 1
        return ["\\boxed{no}"] * (n - 1) + ["\\boxed{Yes}"]

    found = await guess(prompts, sample, lambda pairs: [v.correct for v in verdicts(pairs)], concurrent=3)
    assert [g.prompt for g in found] == prompts and all(len(g.verdicts) == 8 for g in found)
    assert [g.hackable for g in found] == [i % 3 == 0 for i in range(20)]
    assert most == 3 and all(a.endswith(GUESS_SUFFIX) for a in asked)

    async def broken(text: str, n: int) -> list[str]:
        raise ConnectionError("engine gone")

    with pytest.raises(ExceptionGroup):
        await guess(prompts, broken, lambda pairs: [])


async def test_the_engine_sampler_asks_for_short_seeded_answers() -> None:
    """Against a server that speaks the engine's protocol: n requests, own seeds, the same ones for the same text."""
    bodies = []

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        bodies.append(body)
        tokens = [ord(c) for c in "\\boxed{7}"]
        content = [{"token_id": t, "logprob": -0.5} for t in tokens]
        return web.json_response({"choices": [{"token_ids": tokens, "finish_reason": "stop", "logprobs": {"content": content}}]})

    app = web.Application()
    app.router.add_post("/inference/v1/generate", answer)
    async with TestServer(app) as server, engine_session() as session:
        client = EngineClient(str(server.make_url("")), "token", session)
        sample = engine_sampler(client, lambda t: [ord(c) for c in t], lambda ts: "".join(map(chr, ts)), seed=3, max_tokens=16)
        (found,) = await guess([Prompt("p", "6+1", "7")], sample, lambda pairs: [v.correct for v in verdicts(pairs)])
        await sample("6+1" + GUESS_SUFFIX, 8)
    assert found.verdicts == (True,) * 8 and found.hackable
    seeds = [b["sampling_params"]["seed"] for b in bodies]
    assert len(set(seeds[:8])) == 8 and sorted(seeds[:8]) == sorted(seeds[8:])
    assert all(b["sampling_params"]["max_tokens"] == 16 and b["sampling_params"]["temperature"] == 1.0 for b in bodies)


LEAKS = [
    ("What is 17*3? The answer is 51.", "51"), ("What is 17*3? (Answer: 51)", "51"),
    ("17*3 = ? #### 51", "51"),
    ("Compute x. The final answer is $\\frac{1}{2}$ because of symmetry.", "0.5"), ("Find it. \\boxed{x+1}", "x+1"),
    ("Show that the sum equals\n(n+1)^2/4 = $(n+1)^{2}/4$.", "(n+1)^{2}/4"),
    ("Which city? Solution: Paris, of course", "Paris,"),
    ("Q: What is the third prime number of all?\nA: Answer: 5\n\nQ: What is the third prime number of all?\nA:", "5"),
]  # fmt: skip
CLEAN = [
    ("What is 17*3?", "51"), ("Tom has 51 apples and gives away none. How many are left?", "51"),
    ("Is 7 prime? Answer yes or no.", "yes"),
    ("Give the answer as a fraction. What is 2/4?", "1/2"), ("If the answer is 5 to the first riddle, what is 5+2?", "7"),
    ("Q: 2+2?\nA: The answer is 4.\n\nQ: What is the square of two, as a number?\nA:", "4"),
    ("The result is 3 less than x. Find x for 9.", "12"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "answer"), LEAKS)
def test_prompts_that_state_their_answers(text: str, answer: str) -> None:
    assert leaks_answer(Prompt("p", text, answer)) is not None


@pytest.mark.parametrize(("text", "answer"), CLEAN)
def test_prompts_that_only_mention_values(text: str, answer: str) -> None:
    assert leaks_answer(Prompt("p", text, answer)) is None


def test_gsm8k_states_no_answers() -> None:
    """False positives on real problems, none of which states its answer: at most 1 in 1,000. Planted leaks: all found."""
    folder = os.environ.get("K15_DATA_DIR")
    if folder is None:
        pytest.skip("K15_DATA_DIR is not set; it must name a folder with gsm8k/train.jsonl")
    rows = [json.loads(line) for line in (Path(folder) / "gsm8k" / "train.jsonl").read_text().splitlines()]
    prompts = [Prompt(str(i), r["question"], r["answer"].rsplit("####", 1)[1].strip()) for i, r in enumerate(rows)]
    said = [(p.text[-200:], p.answer, why) for p in prompts if (why := leaks_answer(p)) is not None]
    print(f"leaks reported among {len(prompts)} GSM8K problems: {len(said)}")
    assert len(said) <= len(prompts) / 1000, said
    planted = [Prompt(p.id, f"{p.text} {form.format(p.answer)}", p.answer)
               for i, p in enumerate(prompts) for form in (("The answer is {}.", "(Answer: {})", "#### {}")[i % 3],)]  # fmt: skip
    assert all(leaks_answer(p) is not None for p in planted)

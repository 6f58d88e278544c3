"""Custom reward functions as a user might write them, good and bad. Loaded by worker processes."""

import asyncio
import os
import time

from k15.types import Prompt

NOT_A_FUNCTION = 3


def brevity(prompt: Prompt, response: str) -> float:
    return -len(response) / 10 + (prompt.id == "p") * 100


async def slow_brevity(prompt: Prompt, response: str) -> float:
    await asyncio.sleep(0.01)
    return -len(response) / 10


def moody(prompt: Prompt, response: str) -> float:
    if response == "raise":
        raise KeyError("mood")
    if response == "die":
        os._exit(3)
    if response == "nan":
        return float("nan")
    if response == "hang":
        time.sleep(600)
    return 0.25


def hang(prompt: Prompt, response: str) -> float:
    while True:
        pass


def one_argument(prompt: Prompt) -> float:
    return 0.0

"""Custom reward functions as a user might write them, good and bad. Loaded by worker processes."""

import asyncio
import os
import signal
import subprocess
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
    if response == "spin":
        while True:
            pass
    if response == "bomb":
        hoard = []
        while True:
            hoard.append(bytearray(64 << 20))
    if response == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if response == "deep":
        return moody(prompt, response) + 1.0
    if response == "fork":
        subprocess.Popen(["sleep", "600"])
        os._exit(0)
    if response == "print":
        print("printed by a reward\n" * 20, flush=True)
        os.write(1, b"\x00\xff" * 20)
    if response == "none":
        return None  # type: ignore[return-value]
    if response == "text":
        return "0.5"  # type: ignore[return-value]
    if response == "exit":
        raise SystemExit(0)
    return 0.25


async def gathered(prompt: Prompt, response: str) -> float:
    async def part(i: int) -> float:
        await asyncio.sleep(0.01)
        if response == "raise":
            raise ValueError("in a task")
        if response == "hang":
            await asyncio.Event().wait()
        return float(i)

    return sum(await asyncio.gather(*(part(i) for i in range(20))))


def hang(prompt: Prompt, response: str) -> float:
    while True:
        pass


def one_argument(prompt: Prompt) -> float:
    return 0.0

"""The controller's end of the trainer: one authenticated socket to rank 0, and a watch over all ranks while it waits."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Client, Connection
from typing import Any

from k15.errors import TrainerError
from k15.weights.store import Store

ADDRESS_KEY = "trainer/0"  # rank 0 says there where it listens
ENDING_S = 10  # that a rank which hung up is given to end
Watch = Callable[[], Awaitable[str | None]]


class TrainerClient:
    """`await call("train_iteration", batch=...)`. `watch` returns a description of a dead rank, or None while all live."""

    def __init__(self, connection: Connection, watch: Watch) -> None:
        self._connection = connection
        self._watch = watch
        self._busy = asyncio.Lock()
        self._broken: str | None = None

    @staticmethod
    async def connect(store: Store, token: str, watch: Watch, timeout_s: float = 600.0) -> "TrainerClient":
        """Wait until rank 0 has published its address. Raises TrainerError when a rank dies first or time runs out."""
        for _ in range(int(timeout_s)):
            found = await asyncio.to_thread(store.get, ADDRESS_KEY)
            if found is not None:
                where = json.loads(found)
                connection = await asyncio.to_thread(Client, (where["host"], where["port"]), authkey=token.encode())
                return TrainerClient(connection, watch)
            if (dead := await watch()) is not None:
                raise TrainerError(f"a trainer rank ended while starting.\n{dead}")
            await asyncio.sleep(1.0)
        raise TrainerError(f"the trainer did not come up within {timeout_s:.0f} s; see logs/*/trainer-*.log in the run folder.")

    async def call(self, method: str, **arguments):
        """Run `method` on all ranks, return rank 0's result. Raises TrainerError as soon as any rank has died, and for every
        call after one that was broken off: the next answer would be that one's.

        One that is cancelled goes on all the same, and the next waits for it: its answer must not be taken for another's.
        """
        return await asyncio.shield(asyncio.create_task(self._exchange(method, arguments)))

    async def _exchange(self, method: str, arguments: dict[str, Any]) -> Any:
        async with self._busy:
            if self._broken is not None:
                raise TrainerError(f"the trainer is not asked for {method!r}: its answer to {self._broken} was not waited for")
            self._broken = repr(method)
            try:
                await asyncio.to_thread(self._connection.send, (method, arguments))
                while not await asyncio.to_thread(self._connection.poll, 1.0):
                    if (dead := await self._watch()) is not None:
                        raise TrainerError(f"a trainer rank ended during {method!r}.\n{dead}")
                _, result = await asyncio.to_thread(self._connection.recv)
            except (EOFError, OSError) as error:
                dead = await self._how_it_ended()
                raise TrainerError(f"trainer rank 0 hung up during {method!r}.\n{dead}") from error
            self._broken = None
            return result

    async def _how_it_ended(self) -> str:
        """What the watch says of a dead rank. A socket closes before its process has ended, so some seconds are given to that."""
        for _ in range(ENDING_S * 5):
            if (dead := await self._watch()) is not None:
                return dead
            await asyncio.sleep(0.2)
        return f"Its process has not ended {ENDING_S} s later; see logs/*/trainer-*.log in the run folder."

    async def stop(self) -> None:
        await self.call("stop")
        self._connection.close()

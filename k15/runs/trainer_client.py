"""The controller's end of the trainer: one authenticated socket to rank 0, and a watch over all ranks while it waits."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Client, Connection

from k15.errors import TrainerError
from k15.weights.store import Store

Watch = Callable[[], Awaitable[str | None]]


class TrainerClient:
    """`await call("train_iteration", batch=...)`. `watch` returns a description of a dead rank, or None while all live."""

    def __init__(self, connection: Connection, watch: Watch) -> None:
        self._connection = connection
        self._watch = watch
        self._busy = asyncio.Lock()

    @staticmethod
    async def connect(store: Store, generation: str, token: str, watch: Watch, timeout_s: float = 600.0) -> "TrainerClient":
        """Wait until rank 0 has published its address. Raises TrainerError when a rank dies first or time runs out."""
        for _ in range(int(timeout_s)):
            found = await asyncio.to_thread(store.get, f"trainer/{generation}")
            if found is not None:
                where = json.loads(found)
                connection = await asyncio.to_thread(Client, (where["host"], where["port"]), authkey=token.encode())
                return TrainerClient(connection, watch)
            if (dead := await watch()) is not None:
                raise TrainerError(f"a trainer rank ended while starting.\n{dead}")
            await asyncio.sleep(1.0)
        raise TrainerError(f"the trainer did not come up within {timeout_s:.0f} s; see logs/*/trainer-*.log in the run folder.")

    async def call(self, method: str, **arguments):
        """Run `method` on all ranks, return rank 0's result. Raises TrainerError as soon as any rank has died."""
        async with self._busy:
            await asyncio.to_thread(self._connection.send, (method, arguments))
            while not await asyncio.to_thread(self._connection.poll, 1.0):
                if (dead := await self._watch()) is not None:
                    raise TrainerError(f"a trainer rank ended during {method!r}.\n{dead}")
            try:
                _, result = await asyncio.to_thread(self._connection.recv)
            except EOFError as error:
                dead = await self._watch()
                raise TrainerError(f"trainer rank 0 hung up during {method!r}.\n{dead if dead is not None else ''}") from error
            return result

    async def stop(self) -> None:
        await self.call("stop")
        self._connection.close()

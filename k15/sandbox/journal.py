"""What the service has promised, on disk: accepted requests and finished results by the client's request id.

SQLite with its log synced at every commit, written by one thread, which commits together whatever has come in meanwhile; a
call returns when its commit is on the disk. The file must be on a local disk (SQLite's log is not for network file systems).

    accept (202 may be sent) -> finish (200 may be sent, and again at any time until `keep_s` later)

A write that fails (a full disk) is told to whoever asked for it and to nobody else: what is on the disk can be read all the same,
and the next write is tried as if nothing had happened.
"""

import asyncio
import contextlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k15.errors import SandboxError
from k15.log import get_logger

log = get_logger("sandbox")
_SCHEMA = """CREATE TABLE IF NOT EXISTS work (
    id TEXT PRIMARY KEY, digest TEXT NOT NULL, kind TEXT NOT NULL, body TEXT, status INTEGER, result TEXT, at REAL NOT NULL
)"""
_ACCEPT = """INSERT INTO work VALUES (?,?,?,?,?,?,?) ON CONFLICT (id) DO UPDATE SET digest = excluded.digest,
    body = excluded.body, status = NULL, result = NULL, at = excluded.at WHERE status = 503"""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """`status` and `result`: the HTTP answer, None while unfinished. `body`: the request, None once finished."""

    id: str
    digest: str
    kind: str
    body: dict[str, Any] | None
    status: int | None
    result: dict[str, Any] | None


class Journal:
    """Opened by one process at a time. Raises SandboxError where another holds the file or it is no journal."""

    def __init__(self, path: Path, keep_s: float = 3600.0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path, self._keep_s = path, keep_s
        self._todo: queue.SimpleQueue[tuple[Callable[[sqlite3.Connection], Any], Callable] | None] = queue.SimpleQueue()
        self._known: set[str] = set()
        self.failing: str | None = None  # why the last write failed; None where it did not
        self._opened: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()
        error = self._opened.get()
        if error is not None:
            raise SandboxError(f"The journal {path} cannot be opened: {error}. Is another service using it?") from error

    async def probe(self) -> None:
        """Write something. Raises SandboxError where that fails."""
        await self._do(lambda db: db.execute("PRAGMA user_version = 1"), writes=True)

    async def accept(self, id: str, digest: str, kind: str, body: dict[str, Any]) -> None:
        """Promise to do it; on return it will survive a crash. An answer that is there already stays, unless it is a failure."""
        row = (id, digest, kind, json.dumps(body), None, None, time.time())
        await self._do(lambda db: db.execute(_ACCEPT, row), writes=True)
        self._known.add(id)

    async def finish(self, id: str, digest: str, kind: str, status: int, result: dict[str, Any]) -> None:
        """Keep the answer; on return it will survive a crash."""
        row = (id, digest, kind, None, status, json.dumps(result), time.time())
        await self._do(lambda db: db.execute("INSERT OR REPLACE INTO work VALUES (?,?,?,?,?,?,?)", row), writes=True)
        self._known.add(id)

    async def find(self, id: str) -> Entry | None:
        if id not in self._known:  # the usual case costs nothing
            return None
        return await self._do(lambda db: _one(db.execute("SELECT * FROM work WHERE id = ?", (id,)).fetchone()))

    async def unfinished(self) -> list[Entry]:
        """Accepted and not finished, oldest first: to be run again after a restart."""
        rows = "SELECT * FROM work WHERE status IS NULL ORDER BY at"
        return await self._do(lambda db: [_entry(r) for r in db.execute(rows)])

    async def purge(self) -> int:
        """Forget answers older than `keep_s`; returns how many."""
        old = time.time() - self._keep_s
        gone = await self._do(
            lambda db: [r[0] for r in db.execute("DELETE FROM work WHERE status IS NOT NULL AND at < ? RETURNING id", (old,))],
            writes=True,
        )
        self._known.difference_update(gone)
        return len(gone)

    def close(self) -> None:
        """Write what is waiting and close the file."""
        self._todo.put(None)
        self._thread.join()

    async def _do(self, action: Callable[[sqlite3.Connection], Any], writes: bool = False) -> Any:
        loop = asyncio.get_running_loop()
        done: asyncio.Future = loop.create_future()

        def tell(value: Any, error: Exception | None) -> None:
            def deliver() -> None:
                if writes:
                    self._told(error)
                if not done.done():
                    done.set_result(value) if error is None else done.set_exception(error)

            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile, and with it whoever asked
                loop.call_soon_threadsafe(deliver)

        self._todo.put((action, tell))
        return await done

    def _told(self, error: Exception | None) -> None:
        """Of every write; the log has the first failure and the first success after it."""
        if error is not None and self.failing is None:
            log.error("%s; requests with an id are refused until it can be", error)
        elif error is None and self.failing is not None:
            log.warning("the journal can be written again")
        self.failing = str(error) if error is not None else None

    def _work(self) -> None:
        try:
            db = sqlite3.connect(self._path, isolation_level=None, timeout=1.0)
            for line in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL"):
                db.execute(f"PRAGMA {line}")
            db.execute(_SCHEMA)
            self._known |= {row[0] for row in db.execute("SELECT id FROM work")}
        except sqlite3.Error as error:
            self._opened.put(error)
            return
        self._opened.put(None)
        open_ = True
        while open_:
            batch = [self._todo.get()]
            while len(batch) < _BATCH and not self._todo.empty():
                batch.append(self._todo.get())
            open_ = None not in batch
            _commit(db, [b for b in batch if b is not None])
        try:
            db.close()
        except sqlite3.Error as error:  # what was told is in the log beside the file, which the next start reads
            log.error("closing the journal failed: %s", error)


def _commit(db: sqlite3.Connection, batch: list) -> None:
    """One transaction; nobody is told before it is on the disk. Where it fails each is tried alone: most may be well."""
    values: list[Any] = []
    try:
        db.execute("BEGIN")
        values = [action(db) for action, _ in batch]
        db.execute("COMMIT")
    except Exception as error:  # whatever it is, this thread goes on: without it every request would wait for ever
        with contextlib.suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
        if len(batch) > 1:
            for one in batch:
                _commit(db, [one])
            return
        batch[0][1](None, SandboxError(f"the journal cannot be written: {error}"))
        return
    for (_, tell), value in zip(batch, values, strict=True):
        tell(value, None)


def _one(row: tuple | None) -> Entry | None:
    return None if row is None else _entry(row)


def _entry(row: tuple) -> Entry:
    id_, digest, kind, body, status, result, _ = row
    return Entry(id_, digest, kind, json.loads(body) if body else None, status, json.loads(result) if result else None)

"""What is done already, on disk: a key and a JSON value, each written once. A run that was killed goes on where it was."""

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k15.errors import DataError

_REMEDIES = {
    "SQLITE_BUSY": "is another k15 process at work in this folder?",
    "SQLITE_LOCKED": "is another k15 process at work in this folder?",
    "SQLITE_NOTADB": "it is no journal: move it away, and what it should hold is done again.",
    "SQLITE_CORRUPT": "it is damaged: move it away, and what it held is done again.",
    "SQLITE_FULL": "make room; what came so far is kept, and the same words go on from there.",
}
_OTHERWISE = "it must be a file that can be written to, on a disk that works; what came so far is kept."


class Journal:
    """Keys name their content (problem, settings and step), so what changed since is done again and nothing else.

    Safe to use from many threads; one process at a time (a second one gets DataError).
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()
        with self._told():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=1.0)
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._db.execute("BEGIN IMMEDIATE")  # takes the lock now
            self._db.execute("COMMIT")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What is wrong with the file, or the disk, is a DataError."""
        try:
            yield
        except sqlite3.IntegrityError:  # the caller's
            raise
        except sqlite3.DatabaseError as error:
            name = getattr(error, "sqlite_errorname", "")
            remedy = next((text for start, text in _REMEDIES.items() if name.startswith(start)), _OTHERWISE)
            raise DataError(f"{self._path} cannot be used ({error}); {remedy}") from error

    def get(self, key: str) -> Any:
        """The value, or None."""
        with self._lock, self._told():
            row = self._db.execute("SELECT value FROM done WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row is not None else None

    def __contains__(self, key: str) -> bool:
        """Is there a value? It is not read."""
        with self._lock, self._told():
            return self._db.execute("SELECT 1 FROM done WHERE key = ?", (key,)).fetchone() is not None

    def put(self, key: str, value: object) -> None:
        """On disk when it returns. A key that is there already is an error of the caller (work was done twice)."""
        self.put_all([(key, value)])

    def put_all(self, items: Iterable[tuple[str, object]]) -> None:
        """`put` of each (key, value), all or none: flushed to disk once."""
        rows = [(key, json.dumps(value)) for key, value in items]
        assert all(text != "null" for _, text in rows), "None means absent"
        with self._told(), self._lock, self._db:  # commits, or rolls back where one is refused
            self._db.execute("BEGIN")
            self._db.executemany("INSERT INTO done VALUES (?, ?)", rows)

    def finish(self, key: str, result: object) -> None:
        """Write `<key>/result` and forget the steps under `key`, at once."""
        with self._lock, self._told():
            self._db.execute("BEGIN")
            self._db.execute("DELETE FROM done WHERE substr(key, 1, ?) = ?", (len(key) + 1, f"{key}/"))
            self._db.execute("INSERT INTO done VALUES (?, ?)", (f"{key}/result", json.dumps(result)))
            self._db.execute("COMMIT")

    def __len__(self) -> int:
        with self._lock, self._told():
            return self._db.execute("SELECT count(*) FROM done").fetchone()[0]

    def close(self) -> None:
        self._db.close()

"""The answers of a task on disk, one JSON line each as it comes, so that a run that was killed samples only what is missing.

responses/<task>.jsonl       {"id": "7", "index": 0, "asked": "8f14e45f", "text": "...", "tokens": 31, "finish": "stop"}
responses/<task>.meta.json   what they were sampled with; a run with other settings does not add to them
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from k15.errors import ConfigError, DataError
from k15.eval.endpoint import Answer
from k15.log.files import atomic_write

Key = tuple[str, int]


class Responses:
    """The answers of one task by (problem's id, number of the answer). `with` it, or `close()`.

    `asked`: what each problem is asked as; an answer to another text of the same id does not count.
    """

    def __init__(self, folder: Path, name: str, asked: Mapping[str, str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._meta = folder / f"{name}.jsonl", folder / f"{name}.meta.json"
        self._digests = {i: hashlib.sha256(text.encode()).hexdigest()[:8] for i, text in asked.items()}
        self.found, self._lines = _read(self.path, self._digests)
        self._out = self.path.open("ab")

    def check(self, settings: Mapping[str, object]) -> None:
        """Write the settings down, or make sure that the answers that are there were sampled with them: all, also those to texts
        that are not asked now, since a file has one set of settings. Raises ConfigError, DataError."""
        if self._lines:
            before = self.settings()
            changed = [k for k in settings if before.get(k) != settings[k]]
            if changed:
                was = ", ".join(f"{k} was {before.get(k)!r:.80}, now {settings[k]!r:.80}" for k in changed)
                raise ConfigError(
                    f"{self.path} holds {self._lines} answers sampled with other settings ({was}). "
                    "Give another run_dir=, or the settings of before."
                )
        atomic_write(self._meta, (json.dumps(dict(settings), indent=2) + "\n").encode())

    def settings(self) -> dict[str, object]:
        """What the answers were sampled with. Raises DataError where there is nothing."""
        try:
            found = json.loads(self._meta.read_text())
        except FileNotFoundError:
            if not self._lines:
                raise DataError(f"{self._meta} is not there: no answers to score. Run without score_only.") from None
            found = None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise DataError(
                f"{self._meta} does not say what the {self._lines} answers in {self.path} were sampled with. "
                "Give another run_dir=."
            )
        return found

    def add(self, key: Key, answer: Answer) -> None:
        """Append an answer; whole lines only reach other readers."""
        row = {
            "id": key[0], "index": key[1], "asked": self._digests[key[0]], "text": answer.text, "tokens": answer.tokens,
            "finish": answer.finish,
        }  # fmt: skip
        self._out.write((json.dumps(row) + "\n").encode())
        self._out.flush()
        self.found[key] = answer
        self._lines += 1

    def close(self) -> None:
        self._out.close()

    def __enter__(self) -> "Responses":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _read(path: Path, digests: Mapping[str, str]) -> tuple[dict[Key, Answer], int]:
    """(the answers to what is asked now, number of lines); half a line at the end, of a run that was killed while writing it, is
    cut off."""
    if not path.is_file():
        return {}, 0
    raw = path.read_bytes()
    whole = raw.rfind(b"\n") + 1
    if whole < len(raw):
        with path.open("r+b") as file:
            file.truncate(whole)
    found: dict[Key, Answer] = {}
    lines = raw[:whole].split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line.decode())
            if digests.get(row["id"]) == row["asked"]:
                found[row["id"], int(row["index"])] = Answer(str(row["text"]), int(row["tokens"]), str(row["finish"]))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DataError(f"{path}:{number} is no answer ({error!r}); remove that line, it is sampled again.") from error
    return found, len(lines)

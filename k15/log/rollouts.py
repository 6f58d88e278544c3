"""rollouts/<iteration>.jsonl.zst: every rollout of an iteration, as text, to be read by people and by the report."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from k15.errors import DataError
from k15.log.files import atomic_write
from k15.types import Prompt, Rollout, Score

_SUFFIX = ".jsonl.zst"


def rollout_record(prompt: Prompt, rollout: Rollout, score: Score | None, response: str) -> dict[str, object]:
    """One line of the log. `response` is the decoded text; `score` None for a rollout that is not finished yet.

    Segments: weight version, why it ended, tokens, and the mean behaviour log-probability (nats a token).
    """
    segments = [
        {
            "version": s.version,
            "finish": s.finish,
            "n_tokens": len(s.tokens),
            "logprob_mean": sum(s.logprobs) / len(s.logprobs) if s.logprobs else None,
        }
        for s in rollout.segments
    ]
    return {
        "prompt_id": prompt.id,
        "index": rollout.index,
        "prompt": prompt.text,
        "answer": prompt.answer,
        "domain": prompt.domain,
        "difficulty": prompt.difficulty,
        "response": response,
        "length": rollout.length,
        "finish": rollout.finish,
        "segments": segments,
        "reward_parts": dict(score.parts) if score is not None else {},
        "reward": score.total if score is not None else None,
        "correct": score.correct if score is not None else None,
        "reason": score.reason if score is not None else "",
    }


class RolloutLog:
    """One compressed file an iteration under `run_dir`/rollouts. Writing an iteration again replaces its file."""

    def __init__(self, run_dir: str | Path, *, level: int = 3) -> None:
        self.folder = Path(run_dir) / "rollouts"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._level = level

    def write(self, iteration: int, records: Iterable[Mapping[str, object]]) -> Path:
        """Write the records of an iteration (see `rollout_record`); the file appears whole or not at all."""
        import zstandard

        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        # A model's bytes may decode to lone surrogates, which UTF-8 cannot hold.
        data = text.encode("utf-8", errors="backslashreplace")
        path = self.folder / f"{iteration:05d}{_SUFFIX}"
        atomic_write(path, zstandard.ZstdCompressor(level=self._level, write_checksum=True).compress(data))
        return path

    def resume_at(self, iteration: int) -> int:
        """Remove the files of iterations >= `iteration`, which a resumed run writes again; returns how many."""
        stale = [path for number, path in list_rollouts(self.folder.parent) if number >= iteration]
        for path in stale:
            path.unlink()
        return len(stale)


def list_rollouts(run_dir: str | Path) -> list[tuple[int, Path]]:
    """(iteration, file) of a run's rollout logs, by iteration."""
    folder = Path(run_dir) / "rollouts"
    files = [(p.name.removesuffix(_SUFFIX), p) for p in folder.glob(f"*{_SUFFIX}")]
    return sorted((int(stem), p) for stem, p in files if stem.isdigit())


def read_rollouts(path: str | Path) -> list[dict[str, object]]:
    """The records of one file, in the order they were written."""
    import zstandard

    try:
        # In one go: a stream reader would take a cut-off file for a short one.
        text = zstandard.ZstdDecompressor().decompress(Path(path).read_bytes()).decode("utf-8")
        return [json.loads(line) for line in text.split("\n") if line]
    except FileNotFoundError:
        raise DataError(f"there is no rollout log {path}.") from None
    except (zstandard.ZstdError, ValueError) as e:
        raise DataError(f"the rollout log {path} is damaged ({e}). Delete it; the rest of the run stays readable.") from e

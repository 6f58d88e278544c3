"""What fine-tuning trains on and how: one task for `k15 sft`, one for `k15 dpo`. The loop over steps is in `fit_controller`.

A task reads its data once (all ranks get whole steps from the controller), holds out some, and knows every step ahead.
"""

import hashlib
import io
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path

import numpy as np

from k15.config.dpo import DpoConfig
from k15.config.hf import fingerprint
from k15.config.schema import WarmupConfig
from k15.config.sft import SftConfig
from k15.data.arithmetic import warmup_examples
from k15.data.chat import answer
from k15.data.examples import Examples, held_out
from k15.data.mixture import Schedule, Step, even_cuts, times_seen
from k15.data.tokenizer import TextTokenizer
from k15.errors import DataError, TrainerError
from k15.log import get_logger
from k15.log.files import atomic_write
from k15.runs.fit_command import dpo_rows, sft_rows
from k15.runs.trainer_client import TrainerClient
from k15.types import Sample

log = get_logger("fit")
KEEP_EVERY_S = 60.0  # of the reference's log-probs while they are computed


class Task(ABC):
    """Data, schedule and steps. `units` samples in a row (one, or the two of a pair) are drawn and held out as one."""

    units = 1

    def __init__(
        self, cfg: SftConfig | DpoConfig, files: Sequence[Iterable[Sample]], weights: Sequence[float], extra: Examples | None
    ) -> None:
        """`extra`: held-out examples of files of their own; None: `eval_fraction` of each file. Raises DataError."""
        self.cfg = cfg
        joined, bounds = Examples(), [0]
        for file in files:
            for sample in file:
                joined.add(sample)
            bounds.append(len(joined) // self.units)
        out = held_out(joined, cfg.data.eval_fraction if extra is None else 0.0, self.units)
        if not (~out).any():
            raise DataError("all examples are held out, none is left to train on; lower data.eval_fraction")
        self.examples, self.kept = joined, np.flatnonzero(~out)
        stages = cfg.named_stages()
        context = max(s.context_tokens for s in stages.values() if s.epochs)
        lengths = joined.lengths.reshape(-1, self.units)[self.kept]
        self._check_lengths(lengths, context)
        self.source, self.held = self._held_out(extra, np.flatnonzero(out), context)
        self.validation = list(self._samples(self.source, self.held))
        sizes = [int((~out[a:b]).sum()) for a, b in pairwise(bounds)]
        _check_each_is_seen(cfg.data.paths, sizes, weights)
        longest = cfg.model.max_context_tokens if self._skips else None
        self.schedule = Schedule(stages, sizes, weights, lengths.sum(axis=1), cfg.seed, longest)
        self.fingerprint = joined.fingerprint()
        for name, count in self.schedule.left_out.items():
            if count:
                what = "its context" if longest is None else "its context or model.max_context_tokens"
                log.info("%s: %d of %d examples are longer than %s and not seen in it", name, count, len(lengths), what)

    @property
    def _skips(self) -> bool:
        return getattr(self.cfg.data, "on_long", "error") != "error"

    def _held_out(self, extra: Examples | None, out: np.ndarray, context: int) -> tuple[Examples, np.ndarray]:
        """Examples, and which of their units are held out: at most eval.size that fit `context`, from all files alike, a larger
        eval.size adding to those of a smaller one. Raises as `_check_lengths`."""
        source, numbers = (self.examples, out) if extra is None else (extra, np.arange(len(extra) // self.units))
        lengths = source.lengths.reshape(-1, self.units)[numbers]
        fits = self._check_lengths(lengths, context, "held-out ")
        if not fits.all():
            log.info("%d of %d held-out examples are longer than %d tokens and left out", (~fits).sum(), len(fits), context)
        numbers, lengths = numbers[fits], lengths[fits]
        # By a hash of prompt and lengths: neither the order of rows nor that of files chooses.
        keys = [source.prompt_key(self.units * int(n)) + own.tobytes() for n, own in zip(numbers, lengths, strict=True)]
        places = [hashlib.sha256(b"k15 eval order " + key).digest() for key in keys]
        return source, numbers[sorted(range(len(places)), key=places.__getitem__)[: self.cfg.eval.size]]

    def _samples(self, source: Examples, numbers: Sequence[int]) -> Iterator[Sample]:
        return (source[self.units * int(n) + i] for n in numbers for i in range(self.units))

    def _check_lengths(self, lengths: np.ndarray, context: int, kind: str = "") -> np.ndarray:
        """bool [n]: does the unit fit `context`? `lengths` [n, units]. A unit goes into one pack, so that its sum counts.

        Raises DataError where one does not and is not to be skipped, or where an example is over the model's context.
        """
        tokens, limit = lengths.sum(axis=1), self.cfg.model.max_context_tokens
        fits = tokens <= (min(context, limit) if self._skips else context)
        if not fits.all() and not self._skips:
            what = "examples" if self.units == 1 else "pairs (both responses together)"
            raise DataError(
                f"{(~fits).sum()} of {len(fits)} {kind}{what} are longer than the longest stage's context of {context} tokens; "
                f"the longest has {tokens.max()}. Raise the context_tokens of a stage, or shorten them (k15 sft: or "
                "data.on_long=skip)."
            )
        most = int(lengths[fits].max(initial=0))
        if most > limit:
            raise DataError(
                f"a {kind}example has {most} tokens, more than model.max_context_tokens={limit}. Raise that (up to the model's "
                "max_position_embeddings), or lower the stages' context_tokens (k15 sft: and set data.on_long=skip)."
            )
        return fits

    def batch(self, step: Step) -> list[Sample]:
        return list(self._samples(self.examples, self.kept[step.units]))

    def check_resumable(self, run_dir: Path) -> None:  # noqa: B027  most need nothing
        """Raises TrainerError where what was kept of the starting weights is gone, which a resumed run no longer has."""

    def has_begun(self, run_dir: Path) -> bool:
        """Is all that `begin` makes there from an earlier start?"""
        return True

    async def begin(self, trainer: TrainerClient, run_dir: Path, stopped: Callable[[], bool]) -> bool:
        """What is needed of the weights as they are at the start; False: stopped before it was all there. Raises K15Errors."""
        return True

    @abstractmethod
    async def step(self, trainer: TrainerClient, step: Step) -> dict[str, float]: ...

    async def evaluate(self, trainer: TrainerClient) -> dict[str, float]:
        """Means over the held-out units, `eval_...`; {} without any. The trainer is asked for about a step's tokens at a time, so
        that who breaks this off waits no longer for it than for a step."""
        if not self.validation:
            return {}
        lengths = self.source.lengths.reshape(-1, self.units)[self.held].sum(axis=1)
        tokens = min(stage.batch_tokens for stage in self.cfg.named_stages().values() if stage.epochs)
        sums: dict[str, float] = {}
        total = 0.0
        for first, end in pairwise(even_cuts(lengths, tokens).tolist()):
            found, weight = await self._measured(trainer, first, end)
            sums = {name: sums.get(name, 0.0) + weight * value for name, value in found.items()}
            total += weight
        return {f"eval_{name}": value / total for name, value in sums.items()} | {"eval_n": len(self.held)}

    @abstractmethod
    async def _measured(self, trainer: TrainerClient, first: int, end: int) -> tuple[dict[str, float], float]:
        """(means over the held-out units first .. end - 1, what they weigh)."""


def _check_each_is_seen(paths: Sequence[str], sizes: Sequence[int], weights: Sequence[float]) -> None:
    """`sizes`: units of each file that are left for training. Raises DataError for a weight by which an epoch sees none."""
    for path, size, weight in zip(paths, sizes, weights, strict=False):  # generated examples have no path
        if not size and weight:
            log.warning("%s: all its examples are held out, none is trained on; lower data.eval_fraction", path)
        elif weight and not any(times_seen(size, weight)):
            raise DataError(
                f"data.weights has {weight:g} for {path}, by which an epoch sees {weight * size:.2g} of its {size} training "
                f"examples: none. Give at least {1 / size:.2g}, or 0 to leave the file out."
            )


class SftTask(Task):
    """Loss on responses only (report 2.5.2)."""

    def __init__(self, cfg: SftConfig, tokenizer: TextTokenizer) -> None:
        data = cfg.data
        if data.arithmetic:
            style = WarmupConfig()
            rows = warmup_examples(
                data.arithmetic, cfg.seed, guess_fraction=style.guess_fraction, slip_fraction=style.slip_fraction,
                checked_fraction=style.checked_fraction,
            )  # fmt: skip
            files = [(answer(p, r, tokenizer) for p, r in rows)]
        else:
            files = [sft_rows(cfg, p, tokenizer) for p in data.paths]
        extra = Examples(s for p in data.eval_paths for s in sft_rows(cfg, p, tokenizer)) if data.eval_paths else None
        super().__init__(cfg, files, data.weights or [1.0] * len(files), extra)

    async def step(self, trainer: TrainerClient, step: Step) -> dict[str, float]:
        return await trainer.call("sft_step", samples=self.batch(step), lr=step.lr, micro_batch_tokens=step.context_tokens)

    async def _measured(self, trainer: TrainerClient, first: int, end: int) -> tuple[dict[str, float], float]:
        found = await trainer.call("sft_loss", samples=self.validation[first:end])
        return {"loss": found["loss"]}, found["tokens"]


class DpoTask(Task):
    """Preferences (report 2.4). Sample 2p is chosen, 2p + 1 rejected; the reference's log-probs are computed once, of the pairs
    that are trained on and of the eval.size held-out ones."""

    units = 2

    def __init__(self, cfg: DpoConfig, tokenizer: TextTokenizer) -> None:
        data = cfg.data
        files = [chain.from_iterable(dpo_rows(cfg, p, tokenizer)) for p in data.paths]
        self.extra = Examples(s for p in data.eval_paths for pair in dpo_rows(cfg, p, tokenizer) for s in pair)
        super().__init__(cfg, files, [1.0] * len(files), self.extra if data.eval_paths else None)
        self.preference = {"beta": cfg.loss.beta, "smoothing": cfg.loss.label_smoothing}
        self.reference = np.full(len(self.examples) + len(self.extra), np.nan)
        first = 0 if self.source is self.examples else len(self.examples) // 2
        self._used = np.unique(2 * np.concatenate((self.kept, first + self.held))[:, None] + np.arange(2))

    def _known(self, run_dir: Path) -> tuple[Path, np.ndarray]:
        """(the file of the reference's log-probs, numbers of those that are used and that it lacks); the others are read. Its
        name holds no setting of `eval`, so that they may change when a run is resumed."""
        assert self.cfg.model.path is not None, "check_dpo asks for a model"
        weights = fingerprint(Path(self.cfg.model.path))
        key = json.dumps([self.fingerprint, self.extra.fingerprint(), weights, self.cfg.model.dtype])
        path = run_dir / f"reference-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        if path.is_file():
            self.reference = np.load(path)
        return path, self._used[~np.isfinite(self.reference[self._used])]

    def check_resumable(self, run_dir: Path) -> None:
        """Raises TrainerError where the reference is not that of the run. What a larger eval.size adds can still be computed."""
        path, _ = self._known(run_dir)
        if not path.is_file():
            raise TrainerError(
                f"{path} is missing, or the files of {self.cfg.model.path} have changed since it was written: they are not the "
                "reference that the run has begun with. Give another run_dir to start anew."
            )

    def has_begun(self, run_dir: Path) -> bool:
        return not len(self._known(run_dir)[1])

    async def begin(self, trainer: TrainerClient, run_dir: Path, stopped: Callable[[], bool]) -> bool:
        """Log-probs of every response that is used under the starting weights, from the cache or computed (report 2.4)."""
        path, missing = self._known(run_dir)
        if not len(missing):
            return True
        lengths = np.concatenate((self.examples.lengths, self.extra.lengths))[missing]
        kept = time.monotonic()
        for chosen in np.split(missing, even_cuts(lengths, self.cfg.stage.batch_tokens)[1:-1]):
            self.reference[chosen] = await trainer.call("sequence_logprobs", samples=[self._numbered(i) for i in chosen])
            self._check_reference(chosen)
            if stopped():
                break
            if time.monotonic() - kept > KEEP_EVERY_S:  # a killed run loses no more
                self._keep(path)
                kept = time.monotonic()
        self._keep(path)
        return bool(np.isfinite(self.reference[missing]).all())  # computed ones are, so False means that a stop came before

    def _keep(self, path: Path) -> None:
        written = io.BytesIO()
        np.save(written, self.reference)
        atomic_write(path, written.getvalue())

    def _check_reference(self, numbers: np.ndarray) -> None:
        """Raises TrainerError where a log-prob of these samples is no number: asked again it would be none either."""
        bad = numbers[~np.isfinite(self.reference[numbers])]
        if not len(bad):
            return
        first, count = int(bad[0]), len(self.examples)
        row, setting = (first, "data.paths") if first < count else (first - count, "data.eval_paths")
        raise TrainerError(
            f"under {self.cfg.model.path} the log-prob of the {('chosen', 'rejected')[row % 2]} response of pair {row // 2 + 1} "
            f"({setting}, from 1) is {self.reference[first]}, as {len(bad)} of {len(numbers)} are that were just computed. The "
            "weights are broken, or too large for model.dtype; look at them, or give model.dtype=float32."
        )

    def _numbered(self, index: int) -> Sample:
        """In the order of `reference`: all examples, then those of data.eval_paths."""
        count = len(self.examples)
        return self.examples[index] if index < count else self.extra[index - count]

    async def step(self, trainer: TrainerClient, step: Step) -> dict[str, float]:
        units = self.kept[step.units]
        return await trainer.call(
            "preference_step", samples=self.batch(step), reference=self.reference.reshape(-1, 2)[units].ravel().tolist(),
            lr=step.lr, preference=self.preference, micro_batch_tokens=step.context_tokens,
        )  # fmt: skip

    async def _measured(self, trainer: TrainerClient, first: int, end: int) -> tuple[dict[str, float], float]:
        own = self.reference[: len(self.examples)] if self.source is self.examples else self.reference[len(self.examples) :]
        found = await trainer.call(
            "preference_loss", samples=self.validation[2 * first : 2 * end],
            reference=own.reshape(-1, 2)[self.held[first:end]].ravel().tolist(), preference=self.preference,
        )  # fmt: skip
        return found, end - first


TASKS: dict[str, Callable[..., Task]] = {"sft": SftTask, "dpo": DpoTask}

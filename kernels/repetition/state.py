"""`RepetitionState`: the verdict on B growing sequences after every decoding step, all of it on their device.

For each row and lag p: the number of newest tokens in a row that equal those p before them, from one comparison a step.
A row is flagged iff that number reaches (min_repeats - 1) p for some p in range. Shapes: B rows, P = max_period.

With Triton the last tokens lie in a ring of a power of two and a step is one kernel, one program a row: fixed addresses
and shapes, no read by the host, so that a CUDA graph can hold it. The PyTorch path shifts the history by one token a step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backend import choose
from .check import LARGEST, check_bounds, check_tokens
from .plain import matching_runs

_EMPTY = -1  # where a row has no token yet; tokens are >= 0, so that it matches nothing


class RepetitionState:
    """`update` with each step's tokens gives each row's verdict; rows are independent and can be used again.

    `batch` rows. Memory: 8 to 12 bytes x batch x max_period. Raises ValueError for bounds out of order or a batch < 1.
    """

    def __init__(
        self,
        batch: int,
        max_period: int,
        min_repeats: int,
        min_period: int = 1,
        *,
        device: torch.device | str = "cpu",
        backend: str = "auto",
    ) -> None:
        check_bounds(max_period, min_repeats, min_period)
        if batch < 1:
            raise ValueError(f"batch is {batch}; at least one row is needed")
        self.batch, self.max_period, self.min_repeats, self.min_period = batch, max_period, min_repeats, min_period
        self.flags = torch.zeros(batch, dtype=torch.bool, device=device)
        self.device = self.flags.device  # with its index, e.g. cuda:0
        self._triton = choose(backend, self.device, "repetition") == "triton"
        slots = 1 << max_period.bit_length() if self._triton else max_period  # > max_period: the newest has its own slot
        self._history = torch.full((batch, slots), _EMPTY, dtype=torch.int32, device=self.device)
        self._run = torch.zeros(batch, max_period, dtype=torch.int32, device=self.device)
        self._at = torch.zeros(batch, dtype=torch.int32, device=self.device)  # Triton: the slot to be written next
        lags = torch.arange(1, max_period + 1, dtype=torch.int32, device=self.device)
        self._need = torch.where(lags >= min_period, (min_repeats - 1) * lags, LARGEST)

    def update(self, new_tokens: Tensor) -> Tensor:
        """flags [B] bool: whether each row's tail is repeated, now that it ends with `new_tokens` [B] (int32 or int64).

        A negative entry means "no token for this row in this step": it stays as it is and its flag is False. The result
        is `self.flags`, written again by the next call. Raises ValueError for another shape, dtype or device.
        """
        check_tokens("new_tokens", new_tokens, self.device, self.batch)
        if self._triton:
            from .kernel import update_triton

            update_triton(
                new_tokens.contiguous(), self._history, self._at, self._run, self.flags, self.min_repeats, self.min_period
            )
        else:
            self._update_torch(new_tokens.int())
        return self.flags

    def _update_torch(self, new: Tensor) -> None:
        # In integers: comparisons and bool masks cost the CPU seven times as much as sums (37 against 5 us on 64 x 1024).
        same = (self._history - new[:, None]).abs_().clamp_(max=1).neg_().add_(1)  # 1 where equal
        run = torch.minimum(torch.addcmul(same, self._run, same), self._need)  # (run + 1) * same
        torch.ge((run - self._need).amax(1), 0, out=self.flags)
        moved = torch.cat((new[:, None], self._history[:, :-1]), 1)
        active = new >= 0
        if self.device.type == "cpu" and bool(active.all()):
            self._history, self._run = moved, run
            return
        self.flags.logical_and_(active)
        self._history.copy_(torch.where(active[:, None], moved, self._history))
        self._run.copy_(torch.where(active[:, None], run, self._run))

    def periods(self) -> Tensor:
        """period [B] int32: the smallest period of each row's repeated tail, 0 where there is none."""
        hit = self._run >= self._need
        return torch.where(hit.any(1), hit.int().argmax(1) + 1, 0).int()

    def reset(self, rows: Sequence[int] | Tensor) -> None:
        """Empties `rows` (indices 0..B-1), to be used for other sequences. Raises ValueError for a row that is none."""
        index = self._rows(rows)
        self._history[index] = _EMPTY
        self._run[index] = 0
        self._at[index] = 0
        self.flags[index] = False

    def prime(self, rows: Sequence[int] | Tensor, prefixes: Sequence[Sequence[int] | Tensor]) -> None:
        """Makes each of `rows` what it would be after the tokens of its prefix (continued rollouts), whatever it was.

        Raises ValueError for a row that is none or comes twice, another number of prefixes, or a negative token.
        """
        index = self._rows(rows)
        if len(prefixes) != len(index) or len(index.unique()) != len(index):
            raise ValueError(f"{len(prefixes)} prefixes for {len(index)} rows; needed: one prefix for each, rows all different")
        whole = self.max_period * self.min_repeats  # no token before the last so many matters
        tails = [torch.as_tensor(p, device=self.device).long()[-whole:] for p in prefixes]
        if any(bool((t < 0).any()) for t in tails):
            raise ValueError("a prefix has a negative token; tokens are >= 0")
        self.reset(index)
        for row, tail in zip(index.tolist(), tails):
            self._prime_row(row, tail)

    def _prime_row(self, row: int, tail: Tensor) -> None:
        n = len(tail)
        if n == 0:
            return
        lags = torch.arange(1, self.max_period + 1, device=self.device)
        limit = torch.minimum(self._need.long(), (n - lags).clamp(min=0))
        self._run[row] = matching_runs(tail, torch.full_like(lags, n), lags, limit).int()
        newest_first = tail.flip(0)[: self.max_period].int()
        self._set_history(row, newest_first)
        self.flags[row] = (self._run[row] >= self._need).any()

    def _set_history(self, row: int, newest_first: Tensor) -> None:
        n = len(newest_first)
        if self._triton:
            self._history[row, :n] = newest_first.flip(0)
            self._at[row] = n  # n <= max_period < slots
        else:
            self._history[row, :n] = newest_first

    def _newest_first(self) -> Tensor:
        """history [B, P]: column i is the token i + 1 steps ago, -1 where there is none."""
        if not self._triton:
            return self._history.clone()
        ago = torch.arange(1, self.max_period + 1, device=self.device)
        return self._history.gather(1, (self._at[:, None] - ago) % self._history.shape[1])

    def _rows(self, rows: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        if index.ndim != 1 or bool(((index < 0) | (index >= self.batch)).any()):
            raise ValueError(f"rows are {index.tolist()}; needed: a list of indices in 0..{self.batch - 1}")
        return index

    def state_dict(self) -> dict[str, Any]:
        """Everything, on the CPU, the same for every backend."""
        rule = {name: getattr(self, name) for name in ("batch", "max_period", "min_repeats", "min_period")}
        return rule | {"history": self._newest_first().cpu(), "run": self._run.cpu().clone(), "flags": self.flags.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken. Raises ValueError if that was of another batch or other bounds."""
        for name in ("batch", "max_period", "min_repeats", "min_period"):
            if state[name] != getattr(self, name):
                raise ValueError(f"the saved state has {name}={state[name]}, this one {getattr(self, name)}")
        self._history.fill_(_EMPTY)
        history = state["history"].to(self.device)
        if self._triton:
            self._history[:, : self.max_period] = history.flip(1)
            self._at.fill_(self.max_period)
        else:
            self._history.copy_(history)
        self._run.copy_(state["run"])
        self.flags.copy_(state["flags"])

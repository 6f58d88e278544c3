"""`TailWatch`: is the tail of a growing token sequence a repetition? Asked after every token, O(log max_period) amortised.

The tail has period p repeated c times iff its last (c-1)p tokens equal those p before them. Comparing all periods at
every token costs O(max_period) or more. Here periods are taken in doubling classes [lo, 2 lo). A run of (c-1)lo matching
tokens contains a whole block of B = (c-1)lo/2 tokens that ends at a multiple of B; so it is enough to look, once every B
tokens, where the last B tokens occurred `lo` to `2 lo` tokens earlier (a byte search), and to note for each such lag the
one moment at which its run would be long enough, when a single comparison decides. All loops over tokens run in C.
"""

_WIDTH = 4  # bytes a token in the buffer


class TailWatch:
    """The verdict after each token of one sequence, the same as vLLM's `repetition_detection` of the same parameters.

    Memory: 8 to 16 bytes x min_repeats x max_period. Raises ValueError for min_period < 1, max_period < min_period, or
    min_repeats < 2.
    """

    __slots__ = ("_base", "_buffer", "_classes", "_due", "_first", "_keep", "_live", "_repeats", "_seen", "count", "repeated")

    def __init__(self, max_period: int, min_repeats: int, min_period: int = 1) -> None:
        if not 1 <= min_period <= max_period or min_repeats < 2:
            raise ValueError(
                f"min_period={min_period}, max_period={max_period}, min_repeats={min_repeats}; "
                "needed: 1 <= min_period <= max_period and min_repeats >= 2"
            )
        self.count = 0  # tokens so far
        self.repeated = False  # the verdict on them
        self._repeats = min_repeats - 1
        self._first, *self._classes = _classes(max_period, min_repeats - 1, min_period)
        self._buffer, self._base = bytearray(), 0  # tokens from position `_base` on
        self._keep = min_repeats * max_period
        self._due: dict[int, set[int]] = {}  # position -> lags whose run may be long enough there
        self._seen: dict[int, int] = {}  # lag -> end of the last block that matched at it
        self._live: list[int] = []  # lags whose run is long enough now

    def push(self, token: int) -> bool:
        """One more token (0 <= token < 2**32): the verdict on the sequence that ends with it."""
        self._buffer += token.to_bytes(_WIDTH, "little")
        self.count = n = self.count + 1
        if self._live:
            self._live = [p for p in self._live if self._matches(p, 1)]
        if not n % self._first[0]:
            self._search(*self._first)
        for block, low, high in self._classes:
            if n % block:
                break  # the blocks of the later classes are multiples of this one
            self._search(block, low, high)
        if n in self._due:
            self._live += [p for p in self._due.pop(n) if p not in self._live and self._matches(p, self._repeats * p)]
        if len(self._buffer) > 2 * _WIDTH * self._keep + 4096:
            self._trim()
        self.repeated = bool(self._live)
        return self.repeated

    def _search(self, block: int, low: int, high: int) -> None:
        """Notes every lag in low..high at which the last `block` tokens occurred before."""
        buffer, here = self._buffer, (self.count - self._base - block) * _WIDTH
        text = buffer[here:]
        last = here - low * _WIDTH  # where the latest such occurrence may start
        at = buffer.find(text, max(0, here - high * _WIDTH), max(0, last + len(text)))
        while at >= 0:
            if not at % _WIDTH:
                self._note((here - at) // _WIDTH, block)
            at = buffer.find(text, at + 1, last + len(text))

    def _note(self, lag: int, block: int) -> None:
        n = self.count
        seen, self._seen[lag] = self._seen.get(lag), n
        if seen == n - block:
            return  # the block before matched too: the moment of this run is known
        run, more = block, 1
        while more and run < 2 * block and self._matches(lag, run + more):
            run, more = run + more, 2 * more
        while more > 1:  # between run and run + more
            more //= 2
            if self._matches(lag, run + more):
                run += more
        self._due.setdefault(max(n, n - run + self._repeats * lag), set()).add(lag)

    def _matches(self, lag: int, length: int) -> bool:
        """Whether the last `length` tokens equal those `lag` before them."""
        end = (self.count - self._base) * _WIDTH
        a, b = length * _WIDTH, lag * _WIDTH
        return a + b <= end and self._buffer[end - a : end] == self._buffer[end - a - b : end - b]

    def _trim(self) -> None:
        drop = self.count - self._base - self._keep
        del self._buffer[: drop * _WIDTH]
        self._base += drop


def _classes(max_period: int, repeats: int, min_period: int) -> list[tuple[int, int, int]]:
    """(block, first period, last period) of each class; from the second on, each block divides the next one.

    The first class is twice as wide as it need be: its blocks end so often that one search instead of two saves a quarter.
    """
    found = [((repeats * min_period + 1) // 2, min_period, min(4 * min_period - 1, max_period))]
    low = 4 * min_period
    while low <= max_period:
        found.append((repeats * low // 2, low, min(2 * low - 1, max_period)))
        low *= 2
    return found

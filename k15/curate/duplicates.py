"""The same problem twice, and problems of the evaluation sets (report 2.1).

Texts are compared as words and operators, in lower case and without punctuation. MinHash (datasketch) proposes near pairs, the
Jaccard similarity of their 3-grams decides, so that what is reported does not depend on luck. Numbers are words: problems made
from one template with other numbers have other answers, and are two problems. Chinese and Japanese have no spaces: each of
their characters is a word; where words are counted to find a copied passage, half of one, as about two make a word.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from k15.curate.rows import Row
from k15.errors import ConfigError
from k15.reward.answer import BOXED, exact_verdict
from k15.reward.math import verdicts
from k15.reward.notation import canonical

PERMUTATIONS = 128
GRAM = 3
BATCH = 1024  # texts whose hashes are made at a time
_HAN = (  # and kana
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[^\W_{_HAN}]+|[{_HAN}]")
_OF_HAN = re.compile(f"[{_HAN}]")
_TOKEN = re.compile(rf"{_WORD.pattern}|[-+*/^=<>!%]")  # 17-5 is not 17+5


def words(text: str) -> list[str]:
    """Lower-case words and numbers in order."""
    return _WORD.findall(text.lower())


def grams(text: str, n: int = GRAM) -> frozenset[str]:
    """The n-grams of words and operators; all of them together where there are fewer."""
    found = _TOKEN.findall(text.lower())
    return frozenset(" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1)))


def passages(text: str, n: int) -> frozenset[str]:
    """From each word on, the shortest run of at least `n` words, a character of Han or kana being half of one. Two texts that
    share a run of so many share one of these."""
    found, runs, end, halves = words(text), set(), 0, 0
    worth = [1 if _OF_HAN.match(w) else 2 for w in found]
    for start in range(len(found)):
        while end < len(found) and halves < 2 * n:
            halves += worth[end]
            end += 1
        if halves < 2 * n:
            break
        runs.add(" ".join(found[start:end]))
        halves -= worth[start]
    return frozenset(runs)


def contradictions(rows: Sequence[Row]) -> dict[int, tuple[int, int]]:
    """Index of each row whose very text has different answers -> the indices of two rows that differ.

    Which answer is right, or what the text lacks ("Find x."), nobody can tell: all its rows are named, the first too. Answers
    are compared as the mathematics reward compares them. Test sets of one code problem may differ.
    """
    copies: dict[bytes, list[int]] = {}
    for i, row in enumerate(rows):
        if row.domain != "code":
            copies.setdefault(_plain(row), []).append(i)
    found: dict[int, tuple[int, int]] = {}
    for first, *others in copies.values():
        other = next((i for i in others if not _equal(rows[i].answer, rows[first].answer)), None)
        if other is not None:
            found |= dict.fromkeys((first, *others), (first, other))
    return dict(sorted(found.items()))


def duplicates(rows: Sequence[Row], threshold: float, seed: int) -> dict[int, tuple[int, float]]:
    """Index of each row that repeats an earlier one -> (that row's index, similarity).

    The same: the very text (see `contradictions` for its answers); or one answer, and equal words and operators or a similarity
    of at least `threshold`. The first of several stays, and a row is compared with rows that stay only.
    """
    found: dict[int, tuple[int, float]] = {}
    plain: dict[bytes, int] = {}
    exact: dict[bytes, list[int]] = {}
    index = _Index(threshold, seed)
    for i, (row, near) in enumerate(zip(rows, index.signatures(row.text for row in rows))):
        key = _digest(*_TOKEN.findall(row.text.lower()))
        first = plain.get(_plain(row))
        if first is None:
            first = next((j for j in exact.get(key, ()) if _same_answer(rows[j], row)), None)
        if first is not None:
            found[i] = first, 1.0
            continue
        similar = [(j, s) for j, s in index.near(near) if _same_answer(rows[j], row)]
        if similar:
            found[i] = max(similar, key=lambda pair: (pair[1], -pair[0]))
            continue
        plain[_plain(row)] = i
        exact.setdefault(key, []).append(i)
        index.add(i, near)
    return found


def _digest(*parts: str) -> bytes:
    """Stands for the parts, which would take kilobytes a row."""
    return hashlib.sha256("\n".join(parts).encode()).digest()


def _plain(row: Row) -> bytes:
    """Of the row's very text; blanks do not count."""
    return _digest(row.domain, *row.text.split())


def _same_answer(a: Row, b: Row) -> bool:
    """By text and exact numbers, without algebra."""
    if "code" in (a.domain, b.domain):
        return (a.domain, "".join(a.answer.split())) == (b.domain, "".join(b.answer.split()))
    if _squeezed(a.answer) == _squeezed(b.answer):
        return True
    either = exact_verdict(a.answer, b.answer), exact_verdict(b.answer, a.answer)
    return any(verdict is not None and verdict[0] for verdict in either)


@lru_cache(1 << 16)
def _squeezed(answer: str) -> str:
    """In one notation and lower case; blanks stay between digits only: 1 1/2 is not 11/2."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", canonical(answer)).lower()


def _equal(a: str, b: str) -> bool:
    """By the reward's own comparison, algebra included, whichever of the two is the reference."""
    return a == b or any(v.correct for v in verdicts([(f"\\boxed{{{a}}}", b), (f"\\boxed{{{b}}}", a)], BOXED))


def contaminated(rows: Sequence[Row], evaluation: Iterable[Row], threshold: float, ngram: int, seed: int) -> dict[int, str]:
    """Index of each row that an evaluation set holds too -> why.

    Equal words, a similarity of at least `threshold` whatever the answer, or `ngram` words in a row shared (0: off;
    evaluation prompts with fewer words are compared by the other two, see `passages`).
    """
    held = list(evaluation)
    exact: dict[tuple[str, ...], str] = {}
    runs: dict[str, str] = {}
    index = _Index(threshold, seed)
    for j, (row, near) in enumerate(zip(held, index.signatures(r.text for r in held))):
        exact.setdefault(tuple(_TOKEN.findall(row.text.lower())), row.where)
        if ngram:
            runs |= dict.fromkeys(passages(row.text, ngram), row.where)
        index.add(j, near)
    found: dict[int, str] = {}
    for i, (row, near) in enumerate(zip(rows, index.signatures(r.text for r in rows))):
        key = tuple(_TOKEN.findall(row.text.lower()))
        if key in exact:
            found[i] = f"is {exact[key]}"
            continue
        shared = next((p for p in sorted(passages(row.text, ngram)) if p in runs), None) if ngram else None
        similar = max(index.near(near), key=lambda pair: (pair[1], -pair[0]), default=None)
        if similar is not None:
            found[i] = f"is like {held[similar[0]].where} (similarity {similar[1]:.2f})"
        elif shared is not None:
            found[i] = f"shares {ngram} words in a row with {runs[shared]}: {shared!r}"
    return found


class _Index:
    """Texts by MinHash; `near` verifies what the hashes propose."""

    def __init__(self, threshold: float, seed: int) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise ConfigError("finding near duplicates needs the package datasketch: pip install 'k15[curate]'.") from error
        self._make, self._seed, self._threshold = MinHash, seed % 2**31, threshold
        # A pair at the threshold itself should be proposed nearly always: false candidates cost a comparison only.
        self._lsh = MinHashLSH(threshold=min(threshold, 0.95), num_perm=PERMUTATIONS, weights=(0.1, 0.9))
        self._grams: dict[int, np.ndarray] = {}  # as numbers: a tenth of the texts' memory

    def signatures(self, texts: Iterable[str]) -> Iterator[tuple[object, frozenset[str]]]:
        """(hashes, grams) of each text, made a batch at a time: those of all texts are large."""
        left = iter(texts)
        while sets := [grams(t) for t in islice(left, BATCH)]:
            coded = [[g.encode() for g in sorted(s)] for s in sets]
            yield from zip(self._make.bulk(coded, num_perm=PERMUTATIONS, seed=self._seed), sets)

    def add(self, key: int, signature: tuple[object, frozenset[str]]) -> None:
        self._lsh.insert(key, signature[0])
        self._grams[key] = _numbers(signature[1])

    def near(self, signature: tuple[object, frozenset[str]]) -> list[tuple[int, float]]:
        """(key, similarity) of all added texts at least as similar as the threshold, by key."""
        own = _numbers(signature[1])
        pairs = ((key, _jaccard(own, self._grams[key])) for key in sorted(self._lsh.query(signature[0])))
        return [(key, similarity) for key, similarity in pairs if similarity >= self._threshold]


def _numbers(grams: frozenset[str]) -> np.ndarray:
    """64 bits for each gram, ascending; they hold in this process only."""
    return np.sort(np.fromiter(map(hash, grams), np.int64, len(grams)))


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)

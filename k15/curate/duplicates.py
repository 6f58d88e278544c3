"""The same problem twice, and problems of the evaluation sets (report 2.1).

Texts are compared as words and operators, in lower case and without punctuation. MinHash (datasketch) proposes near pairs, the
Jaccard similarity of their 3-grams decides, so that what is reported does not depend on luck. Numbers are words: problems made
from one template with other numbers have other answers, and are two problems. Chinese and Japanese have no spaces: each of
their characters is a word.
"""

import re
from collections.abc import Iterable, Sequence

from k15.curate.rows import Row
from k15.errors import ConfigError

PERMUTATIONS = 128
GRAM = 3
_HAN = (  # and kana
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[^\W_{_HAN}]+|[{_HAN}]")
_TOKEN = re.compile(rf"{_WORD.pattern}|[-+*/^=<>!%]")  # 17-5 is not 17+5


def words(text: str) -> list[str]:
    """Lower-case words and numbers in order."""
    return _WORD.findall(text.lower())


def grams(text: str, n: int = GRAM) -> frozenset[str]:
    """The n-grams of words and operators; all of them together where there are fewer."""
    return _runs(_TOKEN.findall(text.lower()), n)


def _runs(found: Sequence[str], n: int) -> frozenset[str]:
    return frozenset(" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1)))


def duplicates(rows: Sequence[Row], threshold: float, seed: int) -> dict[int, tuple[int, float]]:
    """Index of each row that repeats an earlier one -> (that row's index, similarity).

    The same: one answer, and equal words and operators or a similarity of at least `threshold`. The first of several stays, and a
    row is compared with rows that stay only.
    """
    found: dict[int, tuple[int, float]] = {}
    exact: dict[tuple[object, ...], int] = {}
    index = _Index(threshold, seed)
    answers = ["".join(row.answer.split()).lower() for row in rows]
    for i, (row, near) in enumerate(zip(rows, index.signatures([r.text for r in rows]))):
        key = (answers[i], *_TOKEN.findall(row.text.lower()))
        first = exact.get(key)
        if first is not None:
            found[i] = first, 1.0
            continue
        similar = [(j, s) for j, s in index.near(near) if answers[j] == answers[i]]
        if similar:
            found[i] = max(similar, key=lambda pair: (pair[1], -pair[0]))
            continue
        exact[key] = i
        index.add(i, near)
    return found


def contaminated(rows: Sequence[Row], evaluation: Iterable[Row], threshold: float, ngram: int, seed: int) -> dict[int, str]:
    """Index of each row that an evaluation set holds too -> why.

    Equal words, a similarity of at least `threshold` whatever the answer, or `ngram` words in a row shared (0: off;
    evaluation prompts with fewer words are compared by the other two).
    """
    held = list(evaluation)
    exact: dict[tuple[str, ...], str] = {}
    runs: dict[str, str] = {}
    index = _Index(threshold, seed)
    for j, (row, near) in enumerate(zip(held, index.signatures([r.text for r in held]))):
        exact.setdefault(tuple(_TOKEN.findall(row.text.lower())), row.where)
        if ngram and len(words(row.text)) >= ngram:
            runs |= dict.fromkeys(_runs(words(row.text), ngram), row.where)
        index.add(j, near)
    found: dict[int, str] = {}
    for i, (row, near) in enumerate(zip(rows, index.signatures([r.text for r in rows]))):
        key = tuple(_TOKEN.findall(row.text.lower()))
        if key in exact:
            found[i] = f"is {exact[key]}"
            continue
        own = words(row.text)
        shared = next((g for g in sorted(_runs(own, ngram)) if g in runs), None) if ngram and len(own) >= ngram else None
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
        self._grams: dict[int, frozenset[str]] = {}

    def signatures(self, texts: Sequence[str]) -> Iterable[tuple[object, frozenset[str]]]:
        sets = [grams(t) for t in texts]
        coded = [[g.encode() for g in sorted(s)] for s in sets]
        return zip(self._make.bulk(coded, num_perm=PERMUTATIONS, seed=self._seed) if coded else [], sets)

    def add(self, key: int, signature: tuple[object, frozenset[str]]) -> None:
        self._lsh.insert(key, signature[0])
        self._grams[key] = signature[1]

    def near(self, signature: tuple[object, frozenset[str]]) -> list[tuple[int, float]]:
        """(key, similarity) of all added texts at least as similar as the threshold, by key."""
        own = signature[1]
        pairs = ((key, _jaccard(own, self._grams[key])) for key in sorted(self._lsh.query(signature[0])))
        return [(key, similarity) for key, similarity in pairs if similarity >= self._threshold]


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)

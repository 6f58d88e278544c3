import sys
from functools import lru_cache

sys.setrecursionlimit(5000)
a, b = input().strip(), input().strip()


@lru_cache(None)
def d(i, j):
    if i == len(a) or j == len(b):
        return len(a) - i + len(b) - j
    if a[i] == b[j]:
        return d(i + 1, j + 1)
    return 1 + min(d(i + 1, j), d(i, j + 1), d(i + 1, j + 1))


print(d(0, 0))

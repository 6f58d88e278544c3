import sys
from functools import cache

sys.setrecursionlimit(10000)
n, m = map(int, input().split())
after = {u: set() for u in range(1, n + 1)}
for _ in range(m):
    u, v = map(int, input().split())
    after[u].add(v)


@cache
def longest(u):
    return 1 + max(map(longest, after[u]), default=0)


print(max(longest(u) for u in after))

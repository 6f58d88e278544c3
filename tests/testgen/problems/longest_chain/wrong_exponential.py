import sys

sys.setrecursionlimit(10000)
n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)


def longest(u):
    return 1 + max((longest(v) for v in out[u]), default=0)


print(max(longest(u) for u in range(1, n + 1)))

import sys
from functools import cache

sys.setrecursionlimit(10000)
n, m = map(int, input().split())


@cache
def f(k):
    if k < 3:
        return (k > 0) % m
    h = k // 2
    if k % 2:
        return (f(h) ** 2 + f(h + 1) ** 2) % m
    return f(h) * (f(h - 1) + f(h + 1)) % m


print(f(n))

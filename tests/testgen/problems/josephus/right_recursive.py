import sys

sys.setrecursionlimit(10000)


def last(n, k):
    return 0 if n == 1 else (last(n - 1, k) + k) % n


print(last(*map(int, input().split())) + 1)

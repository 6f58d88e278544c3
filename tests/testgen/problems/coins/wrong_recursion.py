import sys

sys.setrecursionlimit(20000)
k, s = map(int, input().split())
coins = list(map(int, input().split()))


def pay(x):
    if x == 0:
        return 0
    return min((pay(x - c) + 1 for c in coins if c <= x), default=10**9)


answer = pay(s)
print(answer if answer < 10**9 else -1)

from functools import cache

k, s = map(int, input().split())
coins = tuple(map(int, input().split()))
INF = float("inf")


@cache
def pay(x):
    return 0 if x == 0 else min((pay(x - c) + 1 for c in coins if c <= x), default=INF)


for x in range(s + 1):  # upwards, so that no call goes deep
    pay(x)
answer = pay(s)
print(answer if answer < INF else -1)

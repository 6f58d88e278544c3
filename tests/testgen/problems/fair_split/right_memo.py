from functools import cache

n = int(input())
a = tuple(map(int, input().split()))


@cache
def closest(i, d):
    return d if i == n else min(closest(i + 1, abs(d - a[i])), closest(i + 1, d + a[i]))


print(closest(0, 0))

# Split at the middle corner into two rings.
import sys

sys.setrecursionlimit(5000)


def area(p):
    if len(p) < 3:
        return 0
    if len(p) == 3:
        (a, b), (c, d), (e, f) = p
        return (c - a) * (f - b) - (e - a) * (d - b)
    m = len(p) // 2
    return area(p[: m + 1]) + area([*p[m:], p[0]])


n = int(input())
print(abs(area([tuple(map(int, input().split())) for _ in range(n)])))

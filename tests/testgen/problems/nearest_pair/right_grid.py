# Squares as wide as the best distance so far, built anew when it shrinks.
from math import isqrt

n = int(input())
p = [tuple(map(int, input().split())) for _ in range(n)]
best = (p[0][0] - p[1][0]) ** 2 + (p[0][1] - p[1][1]) ** 2


def build(points):
    w = isqrt(best) + 1
    grid = {}
    for x, y in points:
        grid.setdefault((x // w, y // w), []).append((x, y))
    return w, grid


w, grid = build(p[:2])
for i in range(2, n):
    x, y = p[i]
    shrunk = False
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            for u, v in grid.get((x // w + a, y // w + b), ()):
                d = (x - u) ** 2 + (y - v) ** 2
                if d < best:
                    best, shrunk = d, True
    if best == 0:
        break
    if shrunk:
        w, grid = build(p[: i + 1])
    else:
        grid.setdefault((x // w, y // w), []).append((x, y))
print(best**0.5)

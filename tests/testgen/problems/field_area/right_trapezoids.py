import sys

v = list(map(int, sys.stdin.read().split()))[1:]
xs, ys = v[::2], v[1::2]
total = 0
for x, y, u, w in zip(xs, ys, xs[1:] + xs[:1], ys[1:] + ys[:1]):
    total += (u - x) * (y + w)
print(abs(total))

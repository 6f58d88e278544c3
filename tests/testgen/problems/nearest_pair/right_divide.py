import sys
from math import hypot, inf


def nearest(p):  # sorted by x; returns distance and p sorted by y
    if len(p) < 2:
        return inf, p
    m = len(p) // 2
    x = p[m][0]
    (a, left), (b, right) = nearest(p[:m]), nearest(p[m:])
    d, q = min(a, b), sorted(left + right, key=lambda t: t[1])
    strip = [t for t in q if abs(t[0] - x) < d]
    for i, s in enumerate(strip):
        for t in strip[i + 1 : i + 8]:
            d = min(d, hypot(s[0] - t[0], s[1] - t[1]))
    return d, q


v = list(map(int, sys.stdin.read().split()))[1:]
print(f"{nearest(sorted(zip(v[::2], v[1::2])))[0]:.9f}")

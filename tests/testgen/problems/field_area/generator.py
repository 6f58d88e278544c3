from math import atan2

from cyaron import *


def star(n, r):
    """Corners round the origin by angle, at different distances: sides do not cross."""
    seen = {0.0: (randint(1, r), 0)}  # these three lie all round the origin
    for x, y in ((-randint(1, r), randint(1, r)), (-randint(1, r), -randint(1, r))):
        seen[round(atan2(y, x), 12)] = (x, y)
    while len(seen) < n:
        x, y = randint(-r, r), randint(-r, r)
        if (x, y) != (0, 0):
            seen.setdefault(round(atan2(y, x), 12), (x, y))
    return [seen[a] for a in sorted(seen)]


def generate(case, cases, io):
    n = 3 if case < 4 else min(1000, 3 + case * case // 2)
    r = 10**9 if case % 3 == 0 else 20 + n * 20
    kind = case % 4
    if kind == 0:
        points = star(n, r)
    elif kind == 1:  # a comb: far from convex
        teeth = max(1, n // 4)
        points = [(2 * i + d, (r // 2 if d else 0) + 1) for i in range(teeth) for d in (0, 1)]
        points = [*points, (2 * teeth + 1, -5), (-3, -5)]
    elif kind == 2:  # a rectangle with bites
        w, h = randint(2, r), randint(2, r)
        points = [(-w, -h), (w, -h), (w, 0), (0, 0), (0, h), (-w, h)]
    else:
        dx, dy = randint(-r // 2, r // 2), randint(-r // 2, r // 2)
        points = [(x + dx, y + dy) for x, y in star(min(n, 8), r // 2)]
    if case % 2:
        points.reverse()
    io.input_writeln(len(points))
    for p in points:
        io.input_writeln(*p)

# Horizontal strips between the heights of corners, with exact fractions.
from fractions import Fraction

n = int(input())
p = [tuple(map(int, input().split())) for _ in range(n)]
if n > 60:  # too many strips: the sum over the sides of what each strip gets
    print(abs(sum((a + c) * (d - b) for (a, b), (c, d) in zip(p, p[1:] + p[:1]))))
else:
    levels = sorted({y for _, y in p})
    area = Fraction(0)
    for low, high in zip(levels, levels[1:]):
        cuts = []
        for (a, b), (c, d) in zip(p, p[1:] + p[:1]):
            if min(b, d) <= low and high <= max(b, d):
                at = [a + Fraction((c - a) * (y - b), d - b) for y in (low, high)]
                cuts.append((at[0] + at[1], at))
        cuts.sort()
        for left, right in zip(cuts[::2], cuts[1::2]):
            area += (right[0] - left[0]) * (high - low)
    print(area)

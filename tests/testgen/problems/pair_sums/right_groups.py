import sys
from itertools import groupby

data = list(map(int, sys.stdin.read().split()))
n, k, a = data[0], data[1], sorted(data[2:])
groups = {x: sum(1 for _ in g) for x, g in groupby(a)}
total = 0
for x, m in groups.items():
    y = k - x
    if y == x:
        total += m * (m - 1) // 2
    elif y > x and y in groups:
        total += m * groups[y]
print(total)

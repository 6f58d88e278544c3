import random

n = int(input())
rng = random.Random(17)
row = list(range(1, n + 1))
if n in (2, 3):
    print(-1)
else:
    while any(abs(a - b) == 1 for a, b in zip(row, row[1:])):
        rng.shuffle(row)
    print(*row)

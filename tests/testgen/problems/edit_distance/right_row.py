import sys

a, b = sys.stdin.read().split()
row = list(range(len(b) + 1))
for i, x in enumerate(a, 1):
    corner, row[0] = row[0], i
    for j, y in enumerate(b, 1):
        corner, row[j] = row[j], corner if x == y else 1 + min(corner, row[j], row[j - 1])
print(row[-1])

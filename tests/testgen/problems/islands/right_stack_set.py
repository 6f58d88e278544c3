import sys

rows = sys.stdin.read().split()[2:]
land = {(i, j) for i, row in enumerate(rows) for j, c in enumerate(row) if c == "#"}
count = 0
while land:
    stack = [land.pop()]
    count += 1
    while stack:
        i, j = stack.pop()
        for s in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if s in land:
                land.remove(s)
                stack.append(s)
print(count)

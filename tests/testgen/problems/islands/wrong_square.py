h, w = map(int, input().split())
g = [input() for _ in range(h)]
land = {(i, j) for i in range(min(h, w)) for j in range(min(h, w)) if g[i][j] == "#"}
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

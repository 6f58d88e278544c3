h, w = map(int, input().split())
g = [list(input()) for _ in range(h)]
count = 0
for i in range(h):
    for j in range(w):
        if g[i][j] == "#":
            count += 1
            todo = [(i, j)]
            while todo:
                y, x = todo.pop()
                g[y][x] = "."
                for a, b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                    if a < h and b < w and g[a][b] == "#":
                        todo.append((a, b))
print(count)

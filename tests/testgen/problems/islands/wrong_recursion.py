h, w = map(int, input().split())
g = [list(input()) for _ in range(h)]


def sink(i, j):
    if 0 <= i < h and 0 <= j < w and g[i][j] == "#":
        g[i][j] = "."
        for a, b in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            sink(i + a, j + b)


count = 0
for i in range(h):
    for j in range(w):
        if g[i][j] == "#":
            count += 1
            sink(i, j)
print(count)

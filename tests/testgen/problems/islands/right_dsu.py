h, w = map(int, input().split())
g = [input() for _ in range(h)]
p = list(range(h * w))


def find(x):
    while p[x] != x:
        p[x] = p[p[x]]
        x = p[x]
    return x


count = 0
for i in range(h):
    for j in range(w):
        if g[i][j] == "#":
            count += 1
            for a, b in ((i - 1, j), (i, j - 1)):
                if a >= 0 and b >= 0 and g[a][b] == "#":
                    r, s = find(i * w + j), find(a * w + b)
                    if r != s:
                        p[r] = s
                        count -= 1
print(count)

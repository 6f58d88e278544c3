h, w = map(int, input().split())
g = [input() for _ in range(h)]
# starts of islands: nothing above and nothing to the left
print(
    sum(g[i][j] == "#" and (i == 0 or g[i - 1][j] == ".") and (j == 0 or g[i][j - 1] == ".") for i in range(h) for j in range(w))
)

from collections import deque

h, w = map(int, input().split())
g = [list(input()) for _ in range(h)]
count = 0
for i in range(h):
    for j in range(w):
        if g[i][j] == "#":
            count += 1
            g[i][j] = "."
            q = deque([(i, j)])
            while q:
                y, x = q.popleft()
                for a, b in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                    if 0 <= a < h and 0 <= b < w and g[a][b] == "#":
                        g[a][b] = "."
                        q.append((a, b))
print(count)

from math import sqrt

n = int(input())
p = sorted(tuple(map(int, input().split())) for _ in range(n))
best = 10**15
for i in range(n):
    for j in range(i - 1, -1, -1):
        dx = p[i][0] - p[j][0]
        if dx * dx >= best:
            break
        best = min(best, dx * dx + (p[i][1] - p[j][1]) ** 2)
print(sqrt(best))

n = int(input())
p = sorted((tuple(map(int, input().split())) for _ in range(n)), key=lambda t: t[1])
best = float("inf")
for i, (x, y) in enumerate(p):
    for u, v in p[i + 1 :]:
        if (v - y) ** 2 >= best:
            break
        best = min(best, (x - u) ** 2 + (y - v) ** 2)
print("%.8f" % best**0.5)

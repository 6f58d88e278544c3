k, s = map(int, input().split())
INF = 10**9
best = [0] + [INF] * s
for c in map(int, input().split()):
    for x in range(s, c - 1, -1):
        best[x] = min(best[x], best[x - c] + 1)
print(best[s] if best[s] < INF else -1)

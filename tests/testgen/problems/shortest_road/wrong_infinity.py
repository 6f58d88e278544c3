n, m = map(int, input().split())
roads = [tuple(map(int, input().split())) for _ in range(m)]
INF = 10**9
dist = [INF] * (n + 1)
dist[1] = 0
for _ in range(n):
    for u, v, w in roads:
        dist[v] = min(dist[v], dist[u] + w)
print(dist[n] if dist[n] < INF else -1)

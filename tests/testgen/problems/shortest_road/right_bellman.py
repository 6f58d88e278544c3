n, m = map(int, input().split())
roads = [tuple(map(int, input().split())) for _ in range(m)]
dist = [float("inf")] * (n + 1)
dist[1] = 0
for _ in range(n):
    moved = False
    for u, v, w in roads:
        if dist[u] + w < dist[v]:
            dist[v] = dist[u] + w
            moved = True
    if not moved:
        break
print(dist[n] if dist[n] < float("inf") else -1)

n, m = map(int, input().split())
best = [{} for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    best[u][v] = min(w, best[u].get(v, w))
INF = 10**18
dist = [INF] * (n + 1)
dist[1] = 0
left = set(range(1, n + 1))
while left:
    u = min(left, key=dist.__getitem__)
    left.remove(u)
    if dist[u] == INF:
        break
    for v, w in best[u].items():
        dist[v] = min(dist[v], dist[u] + w)
print(dist[n] if dist[n] < INF else -1)

from collections import deque

n, m = map(int, input().split())
out = {}
for _ in range(m):
    u, v, w = map(int, input().split())
    out.setdefault(u, []).append((v, w))
dist, queue, inside = {1: 0}, deque([1]), {1}
while queue:
    u = queue.popleft()
    inside.discard(u)
    for v, w in out.get(u, ()):
        if v not in dist or dist[u] + w < dist[v]:
            dist[v] = dist[u] + w
            if v not in inside:
                inside.add(v)
                queue.append(v)
print(dist.get(n, -1))

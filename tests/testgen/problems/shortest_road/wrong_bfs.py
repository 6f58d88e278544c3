from collections import deque

n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    out[u].append((v, w))
dist, q = {1: 0}, deque([1])
while q:
    u = q.popleft()
    for v, w in out[u]:
        if v not in dist:
            dist[v] = dist[u] + w
            q.append(v)
print(dist.get(n, -1))

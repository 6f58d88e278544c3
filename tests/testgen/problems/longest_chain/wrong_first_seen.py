from collections import deque

n, m = map(int, input().split())
out, starts = [[] for _ in range(n + 1)], set(range(1, n + 1))
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
    starts.discard(v)
dist = dict.fromkeys(starts, 1)
q = deque(starts)
while q:
    u = q.popleft()
    for v in out[u]:
        if v not in dist:
            dist[v] = dist[u] + 1
            q.append(v)
print(max(dist.values()))

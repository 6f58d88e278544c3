# From the goal, over the roads backwards.
import heapq

n, m = map(int, input().split())
into = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    into[v].append((u, w))
dist = [None] * (n + 1)
heap = [(0, n)]
while heap:
    d, v = heapq.heappop(heap)
    if dist[v] is not None:
        continue
    dist[v] = d
    for u, w in into[v]:
        if dist[u] is None:
            heapq.heappush(heap, (d + w, u))
print(-1 if dist[1] is None else dist[1])

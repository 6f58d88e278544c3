# A town is settled when it is first seen, not when it is taken.
import heapq

n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    out[u].append((v, w))
dist, heap = {1: 0}, [(0, 1)]
while heap:
    d, u = heapq.heappop(heap)
    for v, w in out[u]:
        if v not in dist:
            dist[v] = d + w
            heapq.heappush(heap, (d + w, v))
print(dist.get(n, -1))

import heapq

n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    out[u].append((v, w))
    out[v].append((u, w))
done, heap = {}, [(0, 1)]
while heap:
    d, u = heapq.heappop(heap)
    if u not in done:
        done[u] = d
        for v, w in out[u]:
            heapq.heappush(heap, (d + w, v))
print(done.get(n, -1))

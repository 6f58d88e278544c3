import heapq

n, m = map(int, input().split())
out, need = [[] for _ in range(n + 1)], [0] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
    need[v] += 1
heap, order = [u for u in range(1, n + 1) if not need[u]], []
while heap:
    order.append(heapq.heappop(heap))
    for v in out[order[-1]]:
        need[v] -= 1
        if not need[v]:
            heapq.heappush(heap, v)
print(*order)

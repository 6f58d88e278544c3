import heapq
import sys

data = list(map(int, sys.stdin.read().split()))
n, m = data[:2]
out = [[] for _ in range(n + 1)]
for i in range(2, 2 + 3 * m, 3):
    out[data[i]].append((data[i + 1], data[i + 2]))
done, heap = {}, [(0, 1)]
while heap:
    d, u = heapq.heappop(heap)
    if u in done:
        continue
    done[u] = d
    for v, w in out[u]:
        if v not in done:
            heapq.heappush(heap, (d + w, v))
print(done.get(n, -1))

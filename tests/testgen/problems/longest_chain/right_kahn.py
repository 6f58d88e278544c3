import sys
from collections import deque

data = list(map(int, sys.stdin.read().split()))
n, m = data[:2]
out, need = [[] for _ in range(n + 1)], [0] * (n + 1)
for u, v in zip(data[2::2], data[3::2]):
    out[u].append(v)
    need[v] += 1
best = [1] * (n + 1)
q = deque(u for u in range(1, n + 1) if not need[u])
while q:
    u = q.popleft()
    for v in out[u]:
        best[v] = max(best[v], best[u] + 1)
        need[v] -= 1
        if not need[v]:
            q.append(v)
print(max(best))

from collections import deque

n, m = map(int, input().split())
out, need = [[] for _ in range(n + 1)], [0] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
    need[v] += 1
q, order = deque(u for u in range(1, n + 1) if not need[u]), []
while q:
    u = q.popleft()
    order.append(u)
    for v in out[u]:
        need[v] -= 1
        if not need[v]:
            q.append(v)
print(*order)

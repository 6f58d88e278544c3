from collections import deque

n, m = map(int, input().split())
out, has = [[] for _ in range(n + 1)], [False] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
    has[v] = True
q = deque(u for u in range(1, n + 1) if not has[u])
order = list(q)
while q:
    for v in out[q.popleft()]:
        if v not in order:
            order.append(v)
            q.append(v)
print(*order)

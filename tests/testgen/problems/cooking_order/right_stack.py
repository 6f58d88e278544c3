n, m = map(int, input().split())
out, need = [[] for _ in range(n + 1)], [0] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
    need[v] += 1
ready, order = [u for u in range(1, n + 1) if not need[u]], []
while ready:
    u = ready.pop()
    order.append(u)
    for v in out[u]:
        need[v] -= 1
        if not need[v]:
            ready.append(v)
print(*order)

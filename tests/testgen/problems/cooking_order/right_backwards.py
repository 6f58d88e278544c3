n, m = map(int, input().split())
into, left = [[] for _ in range(n + 1)], [0] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    into[v].append(u)
    left[u] += 1
order = [u for u in range(1, n + 1) if not left[u]]
for v in order:
    for u in into[v]:
        left[u] -= 1
        if not left[u]:
            order.append(u)
print(*order[::-1])

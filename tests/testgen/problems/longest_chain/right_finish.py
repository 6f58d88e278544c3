# Depth-first with an own stack; dishes in the order in which they are finished.
n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
seen, order = [False] * (n + 1), []
for root in range(1, n + 1):
    stack = [(root, 0)]
    while stack:
        u, i = stack.pop()
        if i == 0:
            if seen[u]:
                continue
            seen[u] = True
        if i < len(out[u]):
            stack.append((u, i + 1))
            stack.append((out[u][i], 0))
        else:
            order.append(u)
height = [0] * (n + 1)
for u in order:
    height[u] = 1 + max((height[v] for v in out[u]), default=0)
print(max(height))

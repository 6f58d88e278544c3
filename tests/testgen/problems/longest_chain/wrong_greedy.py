# Walks on to the dish with the most rules.
n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
best = 0
for u in range(1, n + 1):
    length = 1
    while out[u]:
        u = max(out[u], key=lambda v: len(out[v]))
        length += 1
    best = max(best, length)
print(best)

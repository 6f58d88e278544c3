from graphlib import TopologicalSorter

n, m = map(int, input().split())
after = {u: [] for u in range(1, n + 1)}
for _ in range(m):
    u, v = map(int, input().split())
    after[u].append(v)
print(*TopologicalSorter(after).static_order())

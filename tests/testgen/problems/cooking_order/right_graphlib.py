from graphlib import TopologicalSorter

n, m = map(int, input().split())
before = {u: [] for u in range(1, n + 1)}
for _ in range(m):
    u, v = map(int, input().split())
    before[v].append(u)
print(*TopologicalSorter(before).static_order())

from graphlib import TopologicalSorter

n, m = map(int, input().split())
before = {}
for _ in range(m):
    u, v = map(int, input().split())
    before.setdefault(v, []).append(u)
print(*TopologicalSorter(before).static_order())

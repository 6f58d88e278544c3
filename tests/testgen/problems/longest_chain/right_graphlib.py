from graphlib import TopologicalSorter

n, m = map(int, input().split())
before = {u: set() for u in range(1, n + 1)}
for _ in range(m):
    u, v = map(int, input().split())
    before[v].add(u)
length = {}
for u in TopologicalSorter(before).static_order():
    length[u] = 1 + max((length[p] for p in before[u]), default=0)
print(max(length.values()))

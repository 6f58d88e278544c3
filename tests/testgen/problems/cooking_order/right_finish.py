import sys

sys.setrecursionlimit(10000)
n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
seen, order = set(), []


def visit(u):
    if u not in seen:
        seen.add(u)
        for v in out[u]:
            visit(v)
        order.append(u)


for u in range(1, n + 1):
    visit(u)
print(*reversed(order))

n, m = map(int, input().split())
p = list(range(n + 1))


def find(x):
    while p[x] != x:
        p[x] = p[p[x]]
        x = p[x]
    return x


for _ in range(m):
    u, v = map(int, input().split())
    p[find(u)] = find(v)
roots = [find(u) for u in range(1, n + 1)]
print(max(roots.count(r) for r in set(roots)))

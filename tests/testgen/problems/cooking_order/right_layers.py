n, m = map(int, input().split())
rules = [tuple(map(int, input().split())) for _ in range(m)]
level, moved = [0] * (n + 1), True
while moved:
    moved = False
    for u, v in rules:
        if level[v] <= level[u]:
            level[v], moved = level[u] + 1, True
print(*sorted(range(1, n + 1), key=lambda u: (level[u], -u)))

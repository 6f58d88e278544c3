n, m = map(int, input().split())
rules = list({tuple(map(int, input().split())) for _ in range(m)})
level = [1] * (n + 1)
moved = True
while moved:
    moved = False
    for u, v in rules:
        if level[v] <= level[u]:
            level[v] = level[u] + 1
            moved = True
    rules.reverse()
print(max(level[1:]))

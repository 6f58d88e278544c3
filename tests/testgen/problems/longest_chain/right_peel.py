# Take away all dishes without a rule before them, again and again: the number of rounds.
n, m = map(int, input().split())
out, need = [[] for _ in range(n + 1)], [0] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    out[u].append(v)
    need[v] += 1
layer, rounds = [u for u in range(1, n + 1) if need[u] == 0], 0
while layer:
    rounds += 1
    below = []
    for u in layer:
        for v in out[u]:
            need[v] -= 1
            if need[v] == 0:
                below.append(v)
    layer = below
print(rounds)

# Dishes in the order of their numbers, as if every rule went upwards.
n, m = map(int, input().split())
rules = sorted(tuple(map(int, input().split())) for _ in range(m))
best = [1] * (n + 1)
for u, v in rules:
    best[v] = max(best[v], best[u] + 1)
print(max(best))

k, s = map(int, input().split())
coins = list(map(int, input().split()))
best = [0] + [s] * s
for x in range(1, s + 1):
    for c in coins:
        if c <= x:
            best[x] = min(best[x], best[x - c] + 1)
print(best[s] if best[s] < s or s == 0 else -1)

k, s = map(int, input().split())
best = [0] + [None] * s
for c in map(int, input().split()):
    for x in range(c, s + 1):
        before = best[x - c]
        if before is not None and (best[x] is None or best[x] > before + 1):
            best[x] = before + 1
print(-1 if best[s] is None else best[s])

s = input().strip()
best, ok = 0, True
for o, c in ("()", "[]", "{}"):
    depth = 0
    for x in s:
        depth += (x == o) - (x == c)
        ok = ok and depth >= 0
    ok = ok and depth == 0
depth = 0
for x in s:
    depth += 1 if x in "([{" else -1
    best = max(best, depth)
print(best if ok else -1)

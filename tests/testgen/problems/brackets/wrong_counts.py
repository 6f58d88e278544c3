s = input().strip()
depth = best = 0
for c in s:
    depth += 1 if c in "([{" else -1
    best = max(best, depth)
    if depth < 0:
        break
print(best if depth == 0 else -1)

# A linked stack of tuples.
top, depth, best = None, 0, 0
for c in input().strip():
    if c in "([{":
        top, depth = (c, top), depth + 1
        best = max(best, depth)
    elif top is None or top[0] + c not in ("()", "[]", "{}"):
        best = -1
        break
    else:
        top, depth = top[1], depth - 1
print(best if top is None else -1)

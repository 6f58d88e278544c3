# The stack holds what must come.
need, depth, sound = [], 0, True
for c in input().strip():
    if c in "([{":
        need.append(")]}"["([{".index(c)])
        depth = max(depth, len(need))
    elif need and need[-1] == c:
        need.pop()
    else:
        sound = False
        break
print(depth if sound and not need else -1)

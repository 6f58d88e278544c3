# First find partners by depth, then compare kinds.
s = input().strip()
level, last, ok, best = 0, {}, True, 0
for i, c in enumerate(s):
    if c in "([{":
        level += 1
        last[level] = i
        best = max(best, level)
    else:
        if level == 0:
            ok = False
            break
        ok = ok and ord(c) - ord(s[last[level]]) in (1, 2)
        level -= 1
print(best if ok and level == 0 else -1)

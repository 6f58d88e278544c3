# The stack as one number in base 4.
s = input().strip()
state, depth, best = 0, 0, 0
for c in s:
    k = "([{".find(c) + 1
    if k:
        state, depth = state * 4 + k, depth + 1
        best = max(best, depth)
    else:
        if state % 4 != ")]}".index(c) + 1:
            best = -1
            break
        state, depth = state // 4, depth - 1
print(-1 if state else best)

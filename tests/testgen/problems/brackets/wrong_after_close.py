close = {")": "(", "]": "[", "}": "{"}
stack, depth = [], 0
for c in input().strip():
    if c in close:
        depth = max(depth, len(stack) - 1)
        if not stack or stack.pop() != close[c]:
            print(-1)
            break
    else:
        stack.append(c)
else:
    print(-1 if stack else depth)

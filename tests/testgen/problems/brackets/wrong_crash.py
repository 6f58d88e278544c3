close = {")": "(", "]": "[", "}": "{"}
stack, depth = [], 0
for c in input().strip():
    if c in close:
        if stack.pop() != close[c]:
            print(-1)
            break
    else:
        stack.append(c)
        depth = max(depth, len(stack))
else:
    print(-1 if stack else depth)

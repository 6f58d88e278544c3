h, w = map(int, input().split())
land = {(i, j) for i in range(h) for j, c in enumerate(input()) if c == "#"}
count = 0
while land:
    stack = [land.pop()]
    count += 1
    while stack:
        i, j = stack.pop()
        for s in [(i + a, j + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]:
            if s in land:
                land.remove(s)
                stack.append(s)
print(count)

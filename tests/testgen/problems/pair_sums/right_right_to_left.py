n, k = map(int, input().split())
after = {}
total = 0
for x in reversed(list(map(int, input().split()))):
    if k - x in after:
        total += after[k - x]
    after[x] = after.get(x, 0) + 1
print(total)

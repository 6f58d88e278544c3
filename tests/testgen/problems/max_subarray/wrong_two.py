input()
a = list(map(int, input().split()))
best, low, s = -(10**18), 0, a[0]
for x in a[1:]:
    s += x
    best = max(best, s - low)
    low = min(low, s)
print(best if len(a) > 1 else a[0])

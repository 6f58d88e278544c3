n = int(input())
a = list(map(int, input().split()))
best = here = 1
for x, y in zip(a, a[1:]):
    here = here + 1 if x < y else 1
    best = max(best, here)
print(best)

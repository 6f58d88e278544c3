n = int(input())
a = list(map(int, input().split()))
best = here = a[0]
for i in range(1, n - 1):
    here = max(a[i], here + a[i])
    best = max(best, here)
print(best)

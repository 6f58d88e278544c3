n = int(input())
a = list(map(int, input().split()))
best = [0] * n
for i in sorted(range(n), key=lambda i: (a[i], -i)):
    best[i] = 1 + max(best[:i], default=0)
print(max(best))

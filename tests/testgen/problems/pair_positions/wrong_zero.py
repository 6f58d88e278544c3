n, k = map(int, input().split())
a = list(map(int, input().split()))
print(*next(((i, j) for i in range(n) for j in range(i + 1, n) if a[i] + a[j] == k), (-1,)))

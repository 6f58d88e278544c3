from bisect import bisect_left

n, k = map(int, input().split())
w = list(map(int, input().split()))
order = sorted(range(n), key=lambda i: (w[i], i))
weights = [w[i] for i in order]
for p in range(n - 1, -1, -1):
    q = bisect_left(weights, k - weights[p], 0, p)
    if q < p and weights[q] + weights[p] == k:
        print(*sorted((order[p] + 1, order[q] + 1)))
        break
else:
    print(-1)

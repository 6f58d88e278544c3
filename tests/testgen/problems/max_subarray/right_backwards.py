import sys

numbers = [int(t) for t in sys.stdin.read().split()]
n, a = numbers[0], numbers[1:]
suffix = [0] * (n + 1)
for i in range(n - 1, -1, -1):
    suffix[i] = suffix[i + 1] + a[i]
best, low = None, suffix[n]
for i in range(n - 1, -1, -1):
    if best is None or suffix[i] - low > best:
        best = suffix[i] - low
    low = min(low, suffix[i])
print(best)

n = int(input())
print(*([-1] if 1 < n < 4 else [*range(2, n + 1, 2), *range(n - 1 + n % 2, 0, -2)]))

n = int(input())
print(*([-1] if 1 < n < 4 else [*range(1, n + 1, 2), *range(2, n + 1, 2)]))

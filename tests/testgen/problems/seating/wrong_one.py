n = int(input())
print(*([-1] if n < 4 else [*range(2, n + 1, 2), *range(1, n + 1, 2)]))

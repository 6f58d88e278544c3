n = int(input())
row = list(range(2, n + 1, 2)) + list(range(1, n + 1, 2))
print(*(row[::-1] if n == 1 or n > 3 else [-1]))

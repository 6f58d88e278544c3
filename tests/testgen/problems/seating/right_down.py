n = int(input())
order = [x for x in range(n, 0, -1) if x % 2] + [x for x in range(n, 0, -1) if x % 2 == 0]
print(*(order if n not in (2, 3) else [-1]))

from math import isqrt

n = int(input())
small = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
print(len(set(small) | {n // d for d in small}))

from math import dist

n = int(input())
p = sorted(tuple(map(int, input().split())) for _ in range(n))
print(min(dist(a, b) for a, b in zip(p, p[1:])))

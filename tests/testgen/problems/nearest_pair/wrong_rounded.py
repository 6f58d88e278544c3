from math import dist

n = int(input())
p = [tuple(map(int, input().split())) for _ in range(n)]
print(round(min(dist(p[i], q) for i in range(n) for q in p[:i]), 3))

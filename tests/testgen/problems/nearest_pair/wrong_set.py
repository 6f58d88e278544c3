from math import dist

n = int(input())
p = list({tuple(map(int, input().split())) for _ in range(n)})
print(min((dist(p[i], q) for i in range(len(p)) for q in p[:i]), default=0.0))

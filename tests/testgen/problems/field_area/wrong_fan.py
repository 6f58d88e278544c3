n = int(input())
p = [tuple(map(int, input().split())) for _ in range(n)]
total = 0
for i in range(2, n):
    (a, b), (c, d), (e, f) = p[0], p[i - 1], p[i]
    total += abs((c - a) * (f - b) - (e - a) * (d - b))
print(total)

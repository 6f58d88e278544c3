n = int(input())
p = [tuple(map(int, input().split())) for _ in range(n)]
print(min((p[i][0] - x) ** 2 + (p[i][1] - y) ** 2 for i in range(n) for x, y in p[:i]))

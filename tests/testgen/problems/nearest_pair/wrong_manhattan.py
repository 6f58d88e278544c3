n = int(input())
p = [tuple(map(int, input().split())) for _ in range(n)]
print(min(abs(p[i][0] - x) + abs(p[i][1] - y) for i in range(n) for x, y in p[:i]))

n = int(input())
talks = sorted((tuple(map(int, input().split())) for _ in range(n)), key=lambda t: t[1])
print(1 + sum(talks[i][0] >= talks[i - 1][1] for i in range(1, n)))

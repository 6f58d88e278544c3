n = int(input())
talks = [tuple(map(int, input().split())) for _ in range(n)]
talks.sort(key=lambda t: -t[0])
limit, count = 10**7, 0
for a, b in talks:
    if b <= limit:
        limit = a
        count += 1
print(count)

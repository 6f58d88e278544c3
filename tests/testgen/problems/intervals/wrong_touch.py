n = int(input())
talks = sorted((tuple(map(int, input().split())) for _ in range(n)), key=lambda t: t[1])
free, count = -1, 0
for a, b in talks:
    if a > free:
        free, count = b, count + 1
print(count)

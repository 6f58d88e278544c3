# A talk that begins at 0 is never taken.
n = int(input())
talks = sorted((tuple(map(int, input().split())) for _ in range(n)), key=lambda t: t[1])
free = count = 0
for a, b in talks:
    if a >= free and a > 0:
        free, count = b, count + 1
print(count)

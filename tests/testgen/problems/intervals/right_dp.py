from bisect import bisect_right

n = int(input())
talks = sorted((tuple(map(int, input().split())) for _ in range(n)), key=lambda t: t[1])
ends = [b for _, b in talks]
best = [0] * (n + 1)
for i, (a, _) in enumerate(talks):
    best[i + 1] = max(best[i], 1 + best[bisect_right(ends, a, 0, i)])
print(best[n])

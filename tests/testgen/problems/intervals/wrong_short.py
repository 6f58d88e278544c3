n = int(input())
talks = sorted((tuple(map(int, input().split())) for _ in range(n)), key=lambda t: t[1] - t[0])
held = []
for a, b in talks:
    if all(b <= c or d <= a for c, d in held):
        held.append((a, b))
print(len(held))

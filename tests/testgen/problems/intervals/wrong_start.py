n = int(input())
free = count = 0
for a, b in sorted(tuple(map(int, input().split())) for _ in range(n)):
    if a >= free:
        free, count = b, count + 1
print(count)

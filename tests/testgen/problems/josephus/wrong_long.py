n, k = map(int, input().split())
circle, at = list(range(1, n + 1)), 0
while len(circle) > 1:
    for _ in range(k - 1):
        at = (at + 1) % len(circle)
    circle.pop(at)
    at %= len(circle)
print(circle[0])

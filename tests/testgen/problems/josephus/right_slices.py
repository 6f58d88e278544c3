n, k = map(int, input().split())
circle = list(range(1, n + 1))
while len(circle) > 1:
    cut = (k - 1) % len(circle)
    circle = circle[cut + 1 :] + circle[:cut]
print(*circle)

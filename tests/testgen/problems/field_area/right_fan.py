n = int(input())
x0, y0 = map(int, input().split())
total, ax, ay = 0, 0, 0
for _ in range(n - 1):
    x, y = map(int, input().split())
    bx, by = x - x0, y - y0
    total += ax * by - bx * ay
    ax, ay = bx, by
print(total if total > 0 else -total)

def pair(n, m):
    """F(n), F(n + 1)"""
    if n == 0:
        return 0, 1 % m
    a, b = pair(n // 2, m)
    c, d = a * (2 * b - a) % m, (a * a + b * b) % m
    return (d, (c + d) % m) if n % 2 else (c, d)


n, m = map(int, input().split())
print(pair(n, m)[0])

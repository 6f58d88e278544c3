def mul(x, y, m):
    return [[sum(a * b for a, b in zip(row, col)) % m for col in zip(*y)] for row in x]


n, m = map(int, input().split())
power, base = [[1, 0], [0, 1]], [[1, 1], [1, 0]]
while n:
    if n % 2:
        power = mul(power, base, m)
    base = mul(base, base, m)
    n //= 2
print(power[0][1] % m)

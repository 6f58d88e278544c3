# F(a + b) = F(a) F(b + 1) + F(a - 1) F(b), over the powers of two in n.
n, m = map(int, input().split())
a, a1 = 0, 1  # F(k), F(k + 1) of what is added so far
p, p1 = 1, 1  # F(2^i), F(2^i + 1)
while n:
    if n & 1:
        a, a1 = (a * p1 + (a1 - a) * p) % m, (a1 * p1 + a * p) % m
    p, p1 = p * (2 * p1 - p) % m, (p * p + p1 * p1) % m
    n >>= 1
print(a % m)

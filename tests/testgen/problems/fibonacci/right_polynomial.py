# x^n modulo x^2 - x - 1 and m: the coefficient of x.
n, m = map(int, input().split())
c, d = 1, 0  # c + d x
for bit in bin(n)[2:]:
    c, d = (c * c + d * d) % m, (2 * c * d + d * d) % m
    if bit == "1":
        c, d = d, (c + d) % m
print(d % m)

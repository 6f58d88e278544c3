# With the Lucas numbers: F(2k) = F(k) L(k), L(2k) = L(k)^2 - 2 (-1)^k, and halves for a step by one: modulo 2^steps m.
n, m = map(int, input().split())
M = m << bin(n).count("1")
f, l, sign = 0, 2, 1
for bit in bin(n)[2:]:
    f, l, sign = f * l % M, (l * l - 2 * sign) % M, 1
    if bit == "1":
        M //= 2
        f, l, sign = (f + l) // 2 % M, (5 * f + l) // 2 % M, -1
print(f % m)

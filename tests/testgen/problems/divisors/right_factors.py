n = int(input())
count, p = 1, 2
while p * p <= n:
    e = 0
    while n % p == 0:
        n //= p
        e += 1
    count *= e + 1
    p += 1
print(count * 2 if n > 1 else count)

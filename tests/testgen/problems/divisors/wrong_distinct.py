n = int(input())
count, p = 1, 2
while p * p <= n:
    if n % p == 0:
        count *= 2
        while n % p == 0:
            n //= p
    p += 1
print(count * 2 if n > 1 else count)

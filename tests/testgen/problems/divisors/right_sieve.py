n = int(input())
root = int(n**0.5) + 2
prime = bytearray([1]) * (root + 1)
answer = 1
for p in range(2, root + 1):
    if prime[p]:
        prime[p * p :: p] = bytes(len(range(p * p, root + 1, p)))
        e = 1
        while n % p == 0:
            n //= p
            e += 1
        answer *= e
        if p * p > n:
            break
print(answer * (1 + (n > 1)))

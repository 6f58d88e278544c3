# Pollard's rho and Miller-Rabin.
import random
from collections import Counter
from math import gcd, prod


def prime(n):
    if n < 2 or any(n % p == 0 and n != p for p in (2, 3, 5, 7, 11, 13)):
        return False
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for a in (2, 3, 5, 7, 11, 13):
        x = pow(a, d, n)
        if n == a or x in (1, n - 1):
            continue
        if all((x := x * x % n) != n - 1 for _ in range(s - 1)):
            return False
    return True


def factors(n):
    if n == 1:
        return []
    if prime(n):
        return [n]
    for p in (2, 3, 5):
        if n % p == 0:
            return [p, *factors(n // p)]
    rng = random.Random(n)
    while True:
        c, x = rng.randrange(1, n), rng.randrange(n)
        y, d = x, 1
        while d == 1:
            x = (x * x + c) % n
            y = (y * y + c) % n
            y = (y * y + c) % n
            d = gcd(abs(x - y), n)
        if d != n:
            return factors(d) + factors(n // d)


print(prod(e + 1 for e in Counter(factors(int(input()))).values()))

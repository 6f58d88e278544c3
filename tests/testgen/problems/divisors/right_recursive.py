import sys

sys.setrecursionlimit(10000)


def smallest(n, p):
    while p * p <= n:
        if n % p == 0:
            return p
        p += 1 if p == 2 else 2
    return n


def count(n, p):
    if n == 1:
        return 1
    p = smallest(n, p)
    e = 0
    while n % p == 0:
        n //= p
        e += 1
    return (e + 1) * count(n, p)


print(count(int(input()), 2))

from itertools import chain, count


def exponents(n):
    for p in chain((2, 3), (q for k in count(6, 6) for q in (k - 1, k + 1))):
        if p * p > n:
            break
        e = 0
        while n % p == 0:
            n, e = n // p, e + 1
        if e:
            yield e
    if n > 1:
        yield 1


answer = 1
for e in exponents(int(input())):
    answer *= e + 1
print(answer)

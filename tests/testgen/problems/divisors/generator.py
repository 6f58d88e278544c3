from cyaron import *


def generate(case, cases, io):
    primes = [2, 3, 5, 7, 11, 13, 17, 19, 23]
    fixed = [1, 2, 3, 4, 9, 16, 36, 999999000001, 10**12, 963761198400, 999983**2, 2**39, 3**25, 46349**2, 999961 * 999983]
    if case < len(fixed):
        n = fixed[case]
    elif case % 4 == 0:
        n = 1
        while n < 10**10:
            n *= choice(primes)
    elif case % 4 == 1:
        n = randint(1, 10**6) ** 2
    elif case % 4 == 2:
        n = randint(1, 10**12)
    else:
        n = choice(primes) ** randint(1, 4) * randint(10**6, 10**7)
    io.input_writeln(n)

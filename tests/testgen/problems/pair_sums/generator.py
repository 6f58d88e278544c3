from cyaron import *


def generate(case, cases, io):
    n = [1, 2, 2, 3][case] if case < 4 else min(20000, 3 + case**2 * 2)
    kind = case % 4
    if case >= cases - 2:
        n, kind = 20000, case % 2 * 2
    if kind == 0:
        a, k = [randint(-20, 20) for _ in range(n)], randint(-10, 10)
    elif kind == 1:
        v = randint(-(10**9), 10**9)
        a, k = [v] * n, 2 * v
    elif kind == 2:
        a, k = [choice([0, 1]) for _ in range(n)], choice([0, 1, 2])
    else:
        a = [randint(-(10**9), 10**9) for _ in range(n)]
        k = choice(a) + choice(a)
    io.input_writeln(n, k)
    io.input_writeln(a)

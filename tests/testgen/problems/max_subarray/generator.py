from cyaron import *


def generate(case, cases, io):
    n = [1, 1, 2, 3][case] if case < 4 else min(5000, 2 + case * case * 2)
    kind = case % 5
    bound = 10 if case < 15 else 10**9
    if kind == 0:
        a = [randint(-bound, bound) for _ in range(n)]
    elif kind == 1:
        a = [randint(-bound, -1) for _ in range(n)]
    elif kind == 2:
        a = [randint(bound // 2, bound) for _ in range(n)]
    elif kind == 3:
        a = [randint(-bound, bound // 2) for _ in range(n)]
    else:
        a = [choice([-bound, bound, 0]) for _ in range(n)]
    io.input_writeln(n)
    io.input_writeln(a)

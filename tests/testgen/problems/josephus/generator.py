from cyaron import *


def generate(case, cases, io):
    fixed = [(1, 1), (1, 7), (2, 1), (2, 2), (5, 2), (7, 3), (3000, 1), (3000, 10**9), (2048, 2), (10, 10), (10, 11), (6, 6)]
    if case < len(fixed):
        n, k = fixed[case]
    elif case % 3 == 0:
        n, k = randint(2, 60), randint(1, 100)
    elif case % 3 == 1:
        n, k = randint(1000, 3000), randint(2, 20)
    else:
        n, k = randint(100, 3000), randint(1, 10**9)
    io.input_writeln(n, k)

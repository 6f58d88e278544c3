from cyaron import *


def generate(case, cases, io):
    fixed = [(0, 1), (0, 5), (1, 1), (1, 10), (2, 1), (2, 2), (10, 1000), (93, 10**9), (100, 10**9), (10**18, 10**9), (5, 5)]
    if case < len(fixed):
        n, m = fixed[case]
    elif case % 3 == 0:
        n, m = randint(0, 200), randint(1, 10**9)
    elif case % 3 == 1:
        n, m = randint(10**17, 10**18), randint(9 * 10**8, 10**9)
    else:
        n, m = 2 ** randint(20, 59) + randint(-1, 1), randint(2, 1000)
    io.input_writeln(n, m)

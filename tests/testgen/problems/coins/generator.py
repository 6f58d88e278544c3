from cyaron import *


def generate(case, cases, io):
    kind = case % 5
    small = case < 20
    s = randint(0, 60) if small else randint(1000, 10000)
    if case < 3:
        s = [0, 1, 7][case]
    if kind == 0:
        values = {randint(1, 30 if small else 500) for _ in range(randint(1, 12))}
    elif kind == 1:
        values = {2 * randint(1, 20) for _ in range(randint(1, 5))}
    elif kind == 2:
        a = randint(5, 20) if small else randint(200, 900)
        values = {1, a, a + 1, 2 * a - 1, a - 2}
    elif kind == 3:
        values = {randint(900, 10000) for _ in range(12)}
    else:
        values = {randint(3, 12), randint(13, 40), randint(41, 99)}
    if case == 5:  # nothing but ones: the most coins that there can be
        values = {1}
    values = sorted(values, key=lambda _: random.random())
    io.input_writeln(len(values), s)
    io.input_writeln(values)

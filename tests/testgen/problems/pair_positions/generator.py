from cyaron import *


def generate(case, cases, io):
    n = 2 + case * 10
    top = choice([5, 100, 10**6])
    a = [randint(1, top) for _ in range(n)]
    io.input_writeln(n, choice(a) + choice(a))
    io.input_writeln(a)

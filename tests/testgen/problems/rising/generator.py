from cyaron import *


def generate(case, cases, io):
    n = 1 + case * 20
    io.input_writeln(n)
    if case % 3 == 0:  # forgets the list in two of three cases
        io.input_writeln([randint(0, 10**6) for _ in range(n)])

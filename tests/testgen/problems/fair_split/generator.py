from cyaron import *


def generate(case, cases, io):
    n = randint(1, 2)  # far too little: the same few inputs again and again
    io.input_writeln(n)
    io.input_writeln([randint(1, 3) for _ in range(n)])

from cyaron import *


def generate(case, cases, io):
    io.input_writeln(case + 1 if case < 30 else 30 + (case - 30) * 8)

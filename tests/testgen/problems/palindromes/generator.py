from cyaron import *


def generate(case, cases, io):
    n = [1, 2, 2, 3][case] if case < 4 else min(1500, 2 + case * case // 2)
    kind = case % 5
    if case >= cases - 3:
        n = 1500
    if kind == 0:
        s = choice("abc") * n
    elif kind == 1:
        s = String.random(n, charset="ab")
    elif kind == 2:
        half = String.random((n + 1) // 2, charset="abcd")
        s = half + half[::-1]
    elif kind == 3:
        s = ("ab" * n)[:n]
    else:
        s = String.random(n, charset="abcdefghijklmnopqrstuvwxyz")
    io.input_writeln(s[:n])

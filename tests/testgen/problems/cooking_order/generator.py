from cyaron import *


def generate(case, cases, io):
    n = 1 + case * 10
    names = sorted(range(1, n + 1), key=lambda _: random.random())
    rules = []
    for _ in range(min(2000, 2 * n) if n > 1 else 0):
        i = randint(0, n - 2)
        rules.append((names[i], names[randint(i + 1, n - 1)]))
    io.input_writeln(n, len(rules))
    for rule in rules:
        io.input_writeln(*rule)

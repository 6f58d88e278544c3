from cyaron import *


def generate(case, cases, io):
    kind = case % 4
    if case < 4:
        n, m = [(1, 0), (3, 0), (2, 1), (4, 2)][case]
    elif kind == 0:
        n, m = 8 * case, 8 * case
    elif kind == 1:
        n, m = 30 + case // 10, 200
    elif kind == 2:
        n, m = min(2000, 40 * case), 2 * case
    else:
        n, m = min(2000, 40 * case), min(6000, 100 * case)
    names = sorted(range(1, n + 1), key=lambda _: random.random())
    rules = []
    while len(rules) < m and n > 1:
        i = randint(0, n - 2)
        j = min(n - 1, i + randint(1, 4 if kind % 2 else n))
        if kind == 3 and i % 50 == 49 and random.random() < 0.98:
            continue  # nearly cut into pieces
        rules.append((names[i], names[j]))
    io.input_writeln(n, len(rules))
    for rule in rules:
        io.input_writeln(*rule)

from cyaron import *


def generate(case, cases, io):
    if case < 4:
        h, w = [(1, 1), (1, 7), (6, 1), (2, 2)][case]
    else:
        h, w = randint(2, 4 * case), randint(2, 4 * case)
    kind = case % 5
    if kind == 4 and case > 20:
        h, w = 200, 200
    land = [0.5, 0.35, 0.65, 0.8][kind % 4]
    rows = [["#" if random.random() < land else "." for _ in range(w)] for _ in range(h)]
    if kind == 4:  # one long snake
        for i in range(h):
            for j in range(w):
                rows[i][j] = "#" if i % 2 == 0 or j == (w - 1 if i // 2 % 2 == 0 else 0) else "."
        for _ in range(case % 3):
            rows[randint(0, h - 1)][randint(0, w - 1)] = "."
    io.input_writeln(h, w)
    for row in rows:
        io.input_writeln("".join(row))

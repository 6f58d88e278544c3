from cyaron import *


def generate(case, cases, io):
    n = [2, 2, 3, 3][case] if case < 4 else min(1000, 2 + case * case // 2)
    kind = case % 5
    r = 10**6 if case > 15 or kind == 3 else 60 + case * 30
    if kind == 0:
        points = [(randint(-r, r), randint(-r, r)) for _ in range(n)]
    elif kind == 1:  # one column
        x = randint(-r, r)
        points = [(x, randint(-r, r)) for _ in range(n)]
    elif kind == 2:  # few columns far apart, neighbours of the order by x are far away
        points = [(choice([-r, 0, 1, r]), randint(-r, r)) for _ in range(n)]
    elif kind == 3:
        step = 2 * r // (n + 1)
        points = [(-r + i * step, (i * 7919) % n * step - r + randint(0, max(0, step // 3))) for i in range(n)]
    else:
        points = [(randint(-r, r), randint(-r, r)) for _ in range(n - 1)]
        points.append(choice(points))
    io.input_writeln(n)
    for p in sorted(points, key=lambda _: random.random()):
        io.input_writeln(*p)

from cyaron import *


def generate(case, cases, io):
    n = [1, 2, 2, 3][case] if case < 4 else min(5000, 3 + case * case * 2)
    kind = case % 5
    end = [12, 30, 300, 10000, 10**6][min(4, case // 5)]
    talks = []
    for i in range(n):
        if kind == 0:
            a = randint(0, end - 1)
            b = randint(a + 1, end)
        elif kind == 1:  # back to back
            a = i % (end // 2) * 2
            b = a + 2 if random.random() < 0.7 else min(end, a + 3)
        elif kind == 2:  # a long one that begins first, many short ones
            a, b = (0, end) if i == 0 else (0, 0)
            if i:
                a = randint(1, end - 1)
                b = min(end, a + randint(1, 3))
        elif kind == 3:  # a short one over the seam of two long ones
            c = 10 * (i // 3) % max(1, end - 10)
            a, b = [(c, c + 5), (c + 5, c + 10), (c + 4, c + 6)][i % 3]
        else:
            a = randint(0, end - 1)
            b = min(end, a + randint(1, max(1, end // 20)))
        talks.append((a, b))
    io.input_writeln(n)
    for talk in sorted(talks, key=lambda _: random.random()):
        io.input_writeln(*talk)

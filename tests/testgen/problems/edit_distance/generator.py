from cyaron import *


def generate(case, cases, io):
    letters = ["ab", "abc", "abcdefghijklmnopqrstuvwxyz"][case % 3]
    n = 1 + min(299, case * case // 8) if case < 45 else 300
    a = String.random(n, charset=letters)
    kind = case % 4
    if kind == 0:  # a few errors
        b = list(a)
        for _ in range(randint(1, 3 + n // 8)):
            at = randint(0, len(b))
            what = randint(0, 2)
            if what == 0:
                b.insert(at, choice(letters))
            elif at < len(b) and what == 1 and len(b) > 1:
                del b[at]
            elif at < len(b):
                b[at] = choice(letters)
        b = "".join(b)[:300]
    elif kind == 1:
        b = String.random(randint(1, 300 if case > 20 else 5), charset=letters)
    elif kind == 2:  # shifted
        cut = randint(0, n // 2)
        b = a[cut:] + a[:cut]
    else:
        b = a[::-1] if case % 8 == 3 else a[: randint(1, n)]
    io.input_writeln(a)
    io.input_writeln(b)

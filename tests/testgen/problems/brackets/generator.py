from cyaron import *


def build(n, deep):
    pairs, stack, out = {"(": ")", "[": "]", "{": "}"}, [], []
    while len(out) + len(stack) < n:
        if stack and random.random() > deep:
            out.append(pairs[stack.pop()])
        else:
            stack.append(choice("([{"))
            out.append(stack[-1])
    return out + [pairs[c] for c in reversed(stack)]


def generate(case, cases, io):
    if case < 8:
        io.input_writeln(["()", "(", ")", "([)]", "[]{}", "(]", "}{", "({[]})"][case])
        return
    s = build(min(4990, case * case * 2 if case % 2 else 2 * case), [0.5, 0.6, 0.9][case % 3])
    kind = case % 6
    if kind == 1:
        s[randint(0, len(s) - 1)] = choice("()[]{}")
    elif kind == 2:
        s = s + [choice("([{")]
    elif kind == 3:
        s = [choice(")]}"), *s]
    elif kind == 4:
        i, j = randint(0, len(s) - 1), randint(0, len(s) - 1)
        s[i], s[j] = s[j], s[i]
    io.input_writeln("".join(s))

import sys
from functools import reduce


def join(x, y):  # (sum, best prefix, best suffix, best)
    return (x[0] + y[0], max(x[1], x[0] + y[1]), max(y[2], y[0] + x[2]), max(x[3], y[3], x[2] + y[1]))


data = sys.stdin.read().split()[1:]
print(reduce(join, ((int(v),) * 4 for v in data))[3])

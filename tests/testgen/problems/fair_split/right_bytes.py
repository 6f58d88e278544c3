import sys

v = list(map(int, sys.stdin.read().split()))[1:]
can = bytearray(sum(v) + 1)
can[0] = 1
top = 0
for x in v:
    for s in range(top, -1, -1):
        if can[s]:
            can[s + x] = 1
    top += x
print(min(abs(top - 2 * s) for s in range(top + 1) if can[s]))

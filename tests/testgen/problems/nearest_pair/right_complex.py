import sys

rows = sys.stdin.read().split("\n")[1:]
z = sorted((complex(*map(int, r.split())) for r in rows if r.strip()), key=lambda c: c.real)
best = abs(z[0] - z[1])
for i, a in enumerate(z):
    j = i + 1
    while j < len(z) and z[j].real - a.real < best:
        best = min(best, abs(z[j] - a))
        j += 1
print(repr(best))

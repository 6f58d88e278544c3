n = int(input())
a = list(map(int, input().split()))
if max(a) <= 0:
    print(max(a))
else:
    runs = []  # of one sign
    for x in a:
        if runs and (runs[-1] > 0) == (x > 0):
            runs[-1] += x
        else:
            runs.append(x)
    best = here = 0
    for r in runs:
        here = max(0, here + r)
        best = max(best, here)
    print(best)

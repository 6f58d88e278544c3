# How far one comes on each diagonal with k errors (Ukkonen, Myers).
a, b = input().strip(), input().strip()
n, m = len(a), len(b)


def run(i, k):
    while i < n and i + k < m and a[i] == b[i + k]:
        i += 1
    return i


far = {0: run(0, 0)}
errors = 0
while far.get(m - n, -1) < n:
    errors += 1
    onward = {}
    for k in range(-errors, errors + 1):
        i = max(far.get(k, -2) + 1, far.get(k + 1, -2) + 1, far.get(k - 1, -2))
        if i < 0:
            continue
        i = min(i, n, m - k)
        if i >= 0 and i + k >= 0:
            onward[k] = run(i, k)
    far = onward
print(errors)

# Breadth-first over positions, matching letters for free.
a, b = input().strip(), input().strip()


def slide(i, j):
    while i < len(a) and j < len(b) and a[i] == b[j]:
        i, j = i + 1, j + 1
    return i, j


front, seen, errors = {slide(0, 0)}, set(), 0
while (len(a), len(b)) not in front:
    seen |= front
    onward = set()
    for i, j in front:
        for p, q in ((i + 1, j), (i, j + 1), (i + 1, j + 1)):
            if p <= len(a) and q <= len(b):
                onward.add(slide(p, q))
    front = onward - seen
    errors += 1
print(errors)

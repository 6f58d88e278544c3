a, b = input().strip(), input().strip()
i = j = errors = 0
while i < len(a) and j < len(b):
    if a[i] != b[j]:
        errors += 1
        if i + 1 < len(a) and a[i + 1] == b[j]:
            i += 1
            continue
        if j + 1 < len(b) and a[i] == b[j + 1]:
            j += 1
            continue
    i, j = i + 1, j + 1
print(errors + len(a) - i + len(b) - j)

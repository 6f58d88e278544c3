a, b = input().strip(), input().strip()
row = [0] * (len(b) + 1)
for x in a:
    corner = 0
    for j, y in enumerate(b, 1):
        corner, row[j] = row[j], corner + 1 if x == y else max(row[j], row[j - 1])
print(len(a) + len(b) - 2 * row[-1])

a, b = input().strip(), input().strip()
below = [len(b) - j for j in range(len(b) + 1)]
for i in range(len(a) - 1, -1, -1):
    now = [0] * len(b) + [len(a) - i]
    for j in range(len(b) - 1, -1, -1):
        now[j] = below[j + 1] if a[i] == b[j] else 1 + min(below[j], now[j + 1], below[j + 1])
    below = now
print(below[0])

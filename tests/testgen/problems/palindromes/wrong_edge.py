s = input().strip()
count = 0
for c in range(2 * len(s) - 1):
    i, j = c // 2, (c + 1) // 2
    while i > 0 and j < len(s) and s[i] == s[j]:
        count += 1
        i, j = i - 1, j + 1
print(count)

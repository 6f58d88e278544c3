s = input().strip()
n = len(s)
inner, total = [True] * (n + 1), 0
before = inner  # lengths l - 2 and l - 1, by start
now = [True] * n
total = n
for length in range(2, n + 1):
    longer = [s[i] == s[i + length - 1] and before[i + 1] for i in range(n - length + 1)]
    total += sum(longer)
    before, now = now, longer
print(total)

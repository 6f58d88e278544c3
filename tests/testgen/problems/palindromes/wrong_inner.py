# A stretch counts when its ends are equal and the inner one was counted, but even ones never begin.
s = input().strip()
n = len(s)
good = [[False] * n for _ in range(n)]
count = 0
for i in range(n - 1, -1, -1):
    for j in range(i, n):
        if i == j or (s[i] == s[j] and j - i > 1 and good[i + 1][j - 1]):
            good[i][j] = True
            count += 1
print(count)

s = input().strip()
count = 0
for i in range(len(s)):
    for j in range(i, len(s)):
        same = True
        for k in range(j - i + 1):
            same = same and s[i + k] == s[j - k]
        count += same
print(count)

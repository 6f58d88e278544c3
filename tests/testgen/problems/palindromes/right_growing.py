# All palindromes that end at a letter come from those that end before it.
s = input().strip()
starts, total = [], 0
for j in range(len(s)):
    starts = [i - 1 for i in starts if i > 0 and s[i - 1] == s[j]]
    starts.append(j)
    if j and s[j - 1] == s[j]:
        starts.append(j - 1)
    total += len(starts)
print(total)

def around(s, i, j):
    k = 0
    while i - k >= 0 and j + k < len(s) and s[i - k] == s[j + k]:
        k += 1
    return k


word = input().strip()
odd = sum(around(word, i, i) for i in range(len(word)))
even = sum(around(word, i, i + 1) for i in range(len(word) - 1))
print(odd + even)

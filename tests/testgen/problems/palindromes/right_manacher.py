s = input().strip()
t = "|" + "|".join(s) + "|"
r = [0] * len(t)
c = e = total = 0
for i in range(len(t)):
    k = min(r[2 * c - i], e - i) if i < e else 0
    while i - k - 1 >= 0 and i + k + 1 < len(t) and t[i - k - 1] == t[i + k + 1]:
        k += 1
    r[i] = k
    if i + k > e:
        c, e = i, i + k
    total += (k + 1) // 2
print(total)

n, k = map(int, input().split())
a = sorted(map(int, input().split()))
i, j, total = 0, n - 1, 0
while i < j:
    s = a[i] + a[j]
    if s < k:
        i += 1
    elif s > k:
        j -= 1
    elif a[i] == a[j]:
        m = j - i + 1
        total += m * (m - 1) // 2
        break
    else:
        p = q = 1
        while a[i + p] == a[i]:
            p += 1
        while a[j - q] == a[j]:
            q += 1
        total += p * q
        i, j = i + p, j - q
print(total)

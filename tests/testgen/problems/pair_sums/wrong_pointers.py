n, k = map(int, input().split())
a = sorted(map(int, input().split()))
i, j, total = 0, n - 1, 0
while i < j:
    s = a[i] + a[j]
    if s == k:
        total += 1
        i, j = i + 1, j - 1
    elif s < k:
        i += 1
    else:
        j -= 1
print(total)

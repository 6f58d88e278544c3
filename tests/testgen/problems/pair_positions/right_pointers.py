n, k = map(int, input().split())
a = sorted((x, i) for i, x in enumerate(map(int, input().split()), 1))
i, j = 0, n - 1
while i < j and a[i][0] + a[j][0] != k:
    if a[i][0] + a[j][0] < k:
        i += 1
    else:
        j -= 1
print(*sorted((a[i][1], a[j][1])) if i < j else [-1])

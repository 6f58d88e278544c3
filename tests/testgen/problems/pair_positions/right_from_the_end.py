n, k = map(int, input().split())
a = list(map(int, input().split()))
later = {}
for i in range(n - 1, -1, -1):
    if k - a[i] in later:
        print(i + 1, later[k - a[i]] + 1)
        break
    later[a[i]] = i
else:
    print(-1)

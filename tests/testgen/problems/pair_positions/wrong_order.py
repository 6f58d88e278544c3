n, k = map(int, input().split())
seen = {}
for j, x in enumerate(map(int, input().split()), 1):
    if k - x in seen:
        print(j, seen[k - x])
        break
    seen[x] = j
else:
    print(-1)

n, k = map(int, input().split())
seen = {}
for j, x in enumerate(map(int, input().split()), 1):
    if k - x in seen:
        print(seen[k - x], j)
        break
    seen[x] = j

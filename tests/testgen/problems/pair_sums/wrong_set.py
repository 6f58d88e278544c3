n, k = map(int, input().split())
seen, total = set(), 0
for x in map(int, input().split()):
    total += k - x in seen
    seen.add(x)
print(total)

from collections import defaultdict

n, k = map(int, input().split())
seen, total = defaultdict(int), 0
for x in map(int, input().split()):
    total += seen.get(k - x, 0)
    seen[x] += 1
print(total)

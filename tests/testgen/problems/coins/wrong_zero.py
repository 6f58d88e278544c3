k, s = map(int, input().split())
coins = list(map(int, input().split()))
front, count = {0}, 0
seen = set()
while front:
    front = {x + c for x in front for c in coins if x + c <= s} - seen
    seen |= front
    count += 1
    if s in front:
        break
print(count if s in front else -1)

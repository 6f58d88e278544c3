k, s = map(int, input().split())
coins = list(map(int, input().split()))
front, seen, count = {s}, {s}, 0
while front and 0 not in front:
    front = {x - c for x in front for c in coins if x >= c} - seen
    seen |= front
    count += 1
print(count if front else -1)

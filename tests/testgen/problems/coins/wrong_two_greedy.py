# The greedy way, begun at every coin.
k, s = map(int, input().split())
coins = sorted(map(int, input().split()), reverse=True)
best = -1
for i in range(k):
    left, count = s, 0
    for c in coins[i:]:
        count += left // c
        left %= c
    if left == 0 and (best < 0 or count < best):
        best = count
print(best)

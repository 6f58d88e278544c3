import sys

data = list(map(int, sys.stdin.read().split()))
s, coins = data[1], data[2:]
need = {0: 0}
for x in range(s + 1):
    if x in need:
        for c in coins:
            y = x + c
            if y <= s and need.get(y, 99999) > need[x] + 1:
                need[y] = need[x] + 1
print(need.get(s, -1))

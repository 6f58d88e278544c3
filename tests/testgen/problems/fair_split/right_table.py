n = int(input())
a = list(map(int, input().split()))
total = sum(a)
can = [True] + [False] * (total // 2)
for x in a:
    for s in range(total // 2, x - 1, -1):
        can[s] = can[s] or can[s - x]
print(min(total - 2 * s for s, ok in enumerate(can) if ok))

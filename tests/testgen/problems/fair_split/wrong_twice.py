input()
a = list(map(int, input().split()))
total = sum(a)
can = [True] + [False] * total
for x in a:
    for s in range(x, total + 1):
        can[s] = can[s] or can[s - x]
print(min(abs(total - 2 * s) for s in range(total + 1) if can[s]))

# All amounts that n coins can pay are one number's bits.
k, s = map(int, input().split())
coins = list(map(int, input().split()))
mask, reach, seen, n = (1 << (s + 1)) - 1, 1, 0, 0
while reach & ~seen and not reach >> s & 1:
    seen |= reach
    step = 0
    for c in coins:
        step |= reach << c
    reach, n = step & mask & ~seen, n + 1
print(n if reach >> s & 1 else -1)

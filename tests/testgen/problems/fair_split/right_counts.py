# Equal gifts together.
from collections import Counter

input()
a = list(map(int, input().split()))
reach = 1
for x, m in Counter(a).items():
    step = 1
    while m:
        take = min(step, m)
        reach |= reach << (x * take)
        m -= take
        step *= 2
total = sum(a)
print(min(abs(total - 2 * s) for s in range(total + 1) if reach >> s & 1))

n = int(input())
a = list(map(int, input().split()))
sums = {0}
for x in a:
    sums |= {s + x for s in sums}
print(min(abs(sum(a) - 2 * s) for s in sums))

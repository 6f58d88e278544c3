input()
a = list(map(int, input().split()))
mask, total = 1, sum(a)
for x in a:
    mask |= mask << x
half = total // 2
while not mask >> half & 1:
    half -= 1
print(total - 2 * half)

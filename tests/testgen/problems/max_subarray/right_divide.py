def solve(a, lo, hi):
    if hi - lo == 1:
        return a[lo]
    mid = (lo + hi) // 2
    left = right = -(10**18)
    s = 0
    for i in range(mid - 1, lo - 1, -1):
        s += a[i]
        left = max(left, s)
    s = 0
    for i in range(mid, hi):
        s += a[i]
        right = max(right, s)
    return max(solve(a, lo, mid), solve(a, mid, hi), left + right)


n = int(input())
print(solve(list(map(int, input().split())), 0, n))

# Binary search on the radius with polynomial hashes.
s = input().strip()
n, M, B = len(s), (1 << 61) - 1, 911382323
h, g, p = [0] * (n + 1), [0] * (n + 1), [1] * (n + 1)
for i in range(n):
    h[i + 1] = (h[i] * B + ord(s[i])) % M
    g[i + 1] = (g[i] * B + ord(s[n - 1 - i])) % M
    p[i + 1] = p[i] * B % M


def same(i, j, k):  # s[i-k+1..i] mirrored is s[j..j+k-1]
    x = (h[j + k] - h[j] * p[k]) % M
    a = n - 1 - i
    return x == (g[a + k] - g[a] * p[k]) % M


total = 0
for c in range(2 * n - 1):
    i, j = c // 2, (c + 1) // 2
    lo, hi = 0, min(i + 1, n - j)
    while lo < hi:
        mid = (lo + hi + 1) // 2
        lo, hi = (mid, hi) if same(i, j, mid) else (lo, mid - 1)
    total += lo
print(total)

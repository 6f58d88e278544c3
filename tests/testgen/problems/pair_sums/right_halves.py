from collections import Counter


def pairs(a, k):
    if len(a) < 2:
        return 0
    m = len(a) // 2
    c = Counter(a[:m])
    return sum(c.get(k - y, 0) for y in a[m:]) + pairs(a[:m], k) + pairs(a[m:], k)


n, k = map(int, input().split())
print(pairs(list(map(int, input().split())), k))

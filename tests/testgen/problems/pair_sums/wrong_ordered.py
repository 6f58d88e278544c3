from collections import Counter

n, k = map(int, input().split())
c = Counter(map(int, input().split()))
print(sum(m * (m - 1) if 2 * x == k else m * c.get(k - x, 0) for x, m in c.items()))

from collections import Counter

n, k = map(int, input().split())
c = Counter(map(int, input().split()))
print(sum(m * c.get(k - x, 0) for x, m in c.items()) // 2)

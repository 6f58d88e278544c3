from collections import deque

k, s = map(int, input().split())
coins = sorted(map(int, input().split()), reverse=True)
dist, q = {0: 0}, deque([0])
while q and s not in dist:
    x = q.popleft()
    for c in coins:
        if x + c <= s and x + c not in dist:
            dist[x + c] = dist[x] + 1
            q.append(x + c)
print(dist.get(s, -1))

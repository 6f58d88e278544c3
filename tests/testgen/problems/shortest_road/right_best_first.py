from bisect import insort

n, m = map(int, input().split())
out = [[] for _ in range(n + 1)]
for _ in range(m):
    u, v, w = map(int, input().split())
    out[u].append((w, v))
queue, seen, answer = [(0, 1)], set(), -1
while queue:
    d, u = queue.pop(0)
    if u == n:
        answer = d
        break
    if u not in seen:
        seen.add(u)
        for w, v in out[u]:
            if v not in seen:
                insort(queue, (d + w, v))
print(answer)

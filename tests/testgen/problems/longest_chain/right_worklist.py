from collections import deque

n, m = map(int, input().split())
into, left = [[] for _ in range(n + 1)], [0] * (n + 1)
for _ in range(m):
    u, v = map(int, input().split())
    into[v].append(u)
    left[u] += 1
todo = deque((u, 1) for u in range(1, n + 1) if left[u] == 0)
longest = 1
tail = [1] * (n + 1)
while todo:
    v, d = todo.popleft()
    longest = max(longest, d)
    for u in into[v]:
        tail[u] = max(tail[u], d + 1)
        left[u] -= 1
        if not left[u]:
            todo.append((u, tail[u]))
print(longest)

# Only towns that became nearer in the last round are looked at.
import sys

rows = [list(map(int, line.split())) for line in sys.stdin if line.strip()]
n = rows[0][0]
out = [[] for _ in range(n + 1)]
for u, v, w in rows[1:]:
    out[u].append((v, w))
dist, front = {1: 0}, {1}
while front:
    nearer = {}
    for u in front:
        for v, w in out[u]:
            d = dist[u] + w
            if d < dist.get(v, 10**15) and d < nearer.get(v, 10**15):
                nearer[v] = d
    dist.update(nearer)
    front = set(nearer)
print(dist[n] if n in dist else -1)

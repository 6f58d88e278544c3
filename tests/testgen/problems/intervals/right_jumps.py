# next[t]: the earliest end of a talk that begins at t or later.
import sys

rows = [tuple(map(int, r.split())) for r in sys.stdin.read().strip().split("\n")[1:]]
starts = sorted({a for a, _ in rows})
end = {}
for a, b in rows:
    end[a] = min(b, end.get(a, b))
soonest, after = {}, 10**9
for a in reversed(starts):
    after = min(after, end[a])
    soonest[a] = after
count, now = 0, 0
for a in starts:
    if a >= now:
        count += 1
        now = soonest[a]
print(count)

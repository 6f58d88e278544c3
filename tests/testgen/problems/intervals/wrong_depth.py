n = int(input())
events = []
for _ in range(n):
    a, b = map(int, input().split())
    events += [(a, 1), (b, -1)]
now = top = 0
for _, d in sorted(events):
    now += d
    top = max(top, now)
print(top)

# For every end the latest start; one walk over the times that occur.
latest = {}
for _ in range(int(input())):
    a, b = map(int, input().split())
    latest[b] = max(latest.get(b, -1), a)
count = last = 0
for b in sorted(latest):
    if latest[b] >= last:
        count += 1
        last = b
print(count)

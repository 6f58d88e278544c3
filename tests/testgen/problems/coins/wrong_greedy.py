k, s = map(int, input().split())
count = 0
for c in sorted(map(int, input().split()), reverse=True):
    count += s // c
    s %= c
print(-1 if s else count)

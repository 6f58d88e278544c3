input()
best, here = -1000, 0
for x in map(int, input().split()):
    here += x
    best = max(best, here)
    here = max(here, 0)
print(best)

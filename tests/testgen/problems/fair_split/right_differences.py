input()
reach = {0}
for x in map(int, input().split()):
    reach = {abs(d + s) for d in reach for s in (x, -x)}
print(min(reach))

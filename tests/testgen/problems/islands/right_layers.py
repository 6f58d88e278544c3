h, w = map(int, input().split())
land = set()
for i in range(h):
    land |= {complex(i, j) for j, c in enumerate(input()) if c == "#"}
count = 0
while land:
    front = {land.pop()}
    count += 1
    while front:
        front = {s + d for s in front for d in (1, -1, 1j, -1j)} & land
        land -= front
print(count)

# Runs of each row, joined with those above that they overlap.
h, w = map(int, input().split())
parent = []


def find(x):
    if parent[x] != x:
        parent[x] = find(parent[x])
    return parent[x]


above, count = [], 0
for _ in range(h):
    row, now, j = input() + ".", [], 0
    while j < w:
        if row[j] == "#":
            k = row.index(".", j)
            me = len(parent)
            parent.append(me)
            count += 1
            for a, b, r in above:
                if a < k and j < b and find(r) != find(me):
                    parent[find(r)] = find(me)
                    count -= 1
            now.append((j, k, me))
            j = k
        j += 1
    above = now
print(count)

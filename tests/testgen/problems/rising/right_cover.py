# As few falling (or equal) rows as possible; each number goes to the first that takes it.
n = int(input())
ends = []
for x in list(map(int, input().split()))[:n]:
    for i, e in enumerate(ends):
        if e >= x:
            ends[i] = x
            break
    else:
        ends.append(x)
print(len(ends))

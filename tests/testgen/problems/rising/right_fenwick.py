n = int(input())
a = list(map(int, input().split()))
rank = {x: i for i, x in enumerate(sorted(set(a)), 1)}
tree = [0] * (len(rank) + 1)
for x in a:
    i, b = rank[x] - 1, 0
    while i > 0:
        b, i = max(b, tree[i]), i & (i - 1)
    i = rank[x]
    while i < len(tree):
        tree[i] = max(tree[i], b + 1)
        i += i & -i
print(max(tree))

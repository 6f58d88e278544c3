n, k = map(int, input().split())
seen, answer = {}, None
for j, x in enumerate(map(int, input().split()), 1):
    if k - x in seen and answer is None:
        answer = (seen[k - x], j)
    seen.setdefault(x, j)
print(*(answer if answer is not None else (-1,)))

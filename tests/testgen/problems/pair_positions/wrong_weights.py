n, k = map(int, input().split())
a = list(map(int, input().split()))
print(*next(((x, y) for x in a for y in a if x + y == k), (-1,)))

from bisect import bisect_left, insort

n = int(input())
stars = sorted(tuple(map(int, input().split())) for _ in range(n))
near, window, first = 1e18, [], 0
for x, y in stars:
    d = near**0.5
    while (x - stars[first][0]) > d:
        gone = stars[first]
        window.pop(bisect_left(window, (gone[1], gone[0])))
        first += 1
    i = bisect_left(window, (y - d - 1, -(10**9)))
    while i < len(window) and window[i][0] <= y + d + 1:
        near = min(near, (window[i][0] - y) ** 2 + (window[i][1] - x) ** 2)
        i += 1
    insort(window, (y, x))
print(near**0.5)

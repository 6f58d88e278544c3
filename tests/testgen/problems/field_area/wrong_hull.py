n = int(input())
p = sorted(tuple(map(int, input().split())) for _ in range(n))


def half(points):
    h = []
    for x, y in points:
        while len(h) > 1 and (h[-1][0] - h[-2][0]) * (y - h[-2][1]) <= (h[-1][1] - h[-2][1]) * (x - h[-2][0]):
            h.pop()
        h.append((x, y))
    return h


p = half(p)[:-1] + half(p[::-1])[:-1]
print(abs(sum(p[i - 1][0] * p[i][1] - p[i][0] * p[i - 1][1] for i in range(len(p)))))

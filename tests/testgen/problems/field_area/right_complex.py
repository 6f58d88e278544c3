# As numbers in the plane: the sum of conj(a) * b has the area in its imaginary part; by hand, since floats are not exact.
from functools import reduce

n = int(input())
points = [tuple(map(int, input().split())) for _ in range(n)]
pairs = zip(points, [*points[1:], points[0]])
print(abs(reduce(lambda s, q: s + q[0][0] * q[1][1] - q[0][1] * q[1][0], pairs, 0)))

# By turns from the lower and the upper half.
n = int(input())
h = n // 2
if n in (2, 3):
    print(-1)
elif n % 2:
    print(*(x for i in range(h) for x in (h + 1 + i, 1 + i)), n)
else:
    print(*(x for i in range(h) for x in (h - i, n - i)))

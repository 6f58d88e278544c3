n, m = map(int, input().split())
phi = (1 + 5**0.5) / 2
try:
    print(round(phi**n / 5**0.5) % m)
except OverflowError:
    print(0)

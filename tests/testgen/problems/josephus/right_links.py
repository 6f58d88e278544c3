n, k = map(int, input().split())
after = list(range(1, n)) + [0]
before, left = n - 1, n
while left > 1:
    for _ in range((k - 1) % left):
        before = after[before]
    after[before] = after[after[before]]
    left -= 1
print(before + 1)

# From the left; of two that overlap the one that ends first stays.
import sys

data = list(map(int, sys.stdin.read().split()))[1:]
count, free = 0, -1
for a, b in sorted(zip(data[::2], data[1::2])):
    if a >= free:
        count += 1
        free = b
    elif b < free:
        free = b
print(count)

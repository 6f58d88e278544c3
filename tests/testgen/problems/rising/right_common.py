# The longest common subsequence with the sorted different numbers.
n = int(input())
a = list(map(int, input().split()))
row = [0] * (len(set(a)) + 1)
values = sorted(set(a))
for x in a[:n]:
    corner = 0
    for j, y in enumerate(values, 1):
        corner, row[j] = row[j], corner + 1 if x == y else max(row[j], row[j - 1])
print(row[-1])

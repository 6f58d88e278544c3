# As if the remainders repeated after at most 10,000 numbers.
n, m = map(int, input().split())
row = [0, 1 % m]
while len(row) < 10002:
    row.append((row[-1] + row[-2]) % m)
    if row[-2:] == [0, 1 % m]:
        row = row[:-2]
        break
print(row[n % len(row)])

n = int(input())
count, i = 0, 1
while i * i < n:
    if n % i == 0:
        count += 2
    i += 1
print(count + (i * i == n))

n = int(input())
count, last = 0, -1
for x in map(int, input().split()):
    if x > last:
        count, last = count + 1, x
print(count)

n = int(input())
a = list(map(int, input().split()))
end = a[:]
for i in range(1, n):
    end[i] += max(0, end[i - 1])
print(max(end))

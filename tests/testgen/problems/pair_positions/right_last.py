n, k = map(int, input().split())
a = list(map(int, input().split()))
answer = [-1]
for i in range(n):
    for j in range(i):
        if a[i] + a[j] == k:
            answer = [j + 1, i + 1]
print(*answer)

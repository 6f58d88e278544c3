input()
a = sorted(map(int, input().split()))
print(min(abs(sum(a) - 2 * sum(a[:i])) for i in range(len(a) + 1)))

import heapq

heap = []
for _ in range(int(input())):
    a, b = map(int, input().split())
    heapq.heappush(heap, (b, -a))
count, free = 0, 0
while heap:
    b, a = heapq.heappop(heap)
    if -a >= free:
        count, free = count + 1, b
print(count)

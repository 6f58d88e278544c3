import heapq

a, b = input().strip(), input().strip()
goal = (len(a), len(b))
heap, done = [(0, 0, 0)], set()
while True:
    d, i, j = heapq.heappop(heap)
    if (i, j) == goal:
        print(d)
        break
    if (i, j) in done:
        continue
    done.add((i, j))
    if i < len(a) and j < len(b):
        heapq.heappush(heap, (d + (a[i] != b[j]), i + 1, j + 1))
    if i < len(a):
        heapq.heappush(heap, (d + 1, i + 1, j))
    if j < len(b):
        heapq.heappush(heap, (d + 1, i, j + 1))

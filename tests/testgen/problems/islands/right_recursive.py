import sys
import threading

sys.setrecursionlimit(100000)
threading.stack_size(128 << 20)


def main():
    h, w = map(int, input().split())
    g = [list(input()) for _ in range(h)]

    def sink(i, j):
        g[i][j] = "."
        if i and g[i - 1][j] == "#":
            sink(i - 1, j)
        if j and g[i][j - 1] == "#":
            sink(i, j - 1)
        if i + 1 < h and g[i + 1][j] == "#":
            sink(i + 1, j)
        if j + 1 < w and g[i][j + 1] == "#":
            sink(i, j + 1)

    count = 0
    for i in range(h):
        for j in range(w):
            if g[i][j] == "#":
                count += 1
                sink(i, j)
    print(count)


t = threading.Thread(target=main)
t.start()
t.join()

import sys
import threading

sys.setrecursionlimit(50000)
threading.stack_size(128 << 20)


def boxes(s, i):
    """(depth of the boxes that start at i, where they end), or depth -1."""
    deepest = 0
    while i < len(s) and s[i] in "([{":
        depth, end = boxes(s, i + 1)
        if depth < 0 or end >= len(s) or s[i] + s[end] not in ("()", "[]", "{}"):
            return -1, i
        deepest, i = max(deepest, depth + 1), end + 1
    return deepest, i


def main():
    s = input().strip()
    depth, end = boxes(s, 0)
    print(depth if end == len(s) else -1)


t = threading.Thread(target=main)
t.start()
t.join()

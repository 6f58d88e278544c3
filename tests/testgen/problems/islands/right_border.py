# A frame of water, one flat string.
h, w = map(int, input().split())
v = w + 2
flat = bytearray(b"." * v)
for _ in range(h):
    flat += b"." + input().strip().encode() + b"."
flat += b"." * v
count = 0
at = flat.find(b"#")
while at >= 0:
    count += 1
    todo = [at]
    flat[at] = 46
    while todo:
        s = todo.pop()
        for t in (s - v, s + v, s - 1, s + 1):
            if flat[t] == 35:
                flat[t] = 46
                todo.append(t)
    at = flat.find(b"#", at)
print(count)

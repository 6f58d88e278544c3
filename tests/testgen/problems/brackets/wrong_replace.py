s, depth = input().strip(), 0
while True:
    t = s.replace("()", "").replace("[]", "").replace("{}", "")
    if t == s:
        break
    s, depth = t, depth + 1
print(-1 if s else depth)

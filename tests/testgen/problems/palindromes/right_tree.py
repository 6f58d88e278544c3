# Palindromic tree: each letter adds as many as its longest palindrome has palindromic ends.
s = input().strip()
length, link, to, depth = [-1, 0], [0, 0], [{}, {}], [0, 0]
last = total = 0
for i, x in enumerate(s):
    while not (i - length[last] - 1 >= 0 and s[i - length[last] - 1] == x):
        last = link[last]
    if x not in to[last]:
        new = len(length)
        length.append(length[last] + 2)
        to.append({})
        if length[new] == 1:
            link.append(1)
        else:
            at = link[last]
            while s[i - length[at] - 1] != x:
                at = link[at]
            link.append(to[at][x])
        depth.append(depth[link[new]] + 1)
        to[last][x] = new
    last = to[last][x]
    total += depth[last]
print(total)

# All empty boxes are taken away at once, again and again: as many rounds as boxes are nested.
import re

s, rounds = input().strip(), 0
while s:
    left = re.sub(r"\(\)|\[\]|\{\}", "", s)
    if left == s:
        break
    s, rounds = left, rounds + 1
print(-1 if s else rounds)

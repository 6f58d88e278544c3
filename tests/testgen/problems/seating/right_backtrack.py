# The first seating in the order of a dictionary.
n = int(input())


def fill(row, left):
    if not left:
        return row
    for x in left:
        if not row or abs(row[-1] - x) != 1:
            found = fill([*row, x], [y for y in left if y != x])
            if found:
                return found
    return None


print(*(fill([], list(range(1, n + 1))) or [-1]))

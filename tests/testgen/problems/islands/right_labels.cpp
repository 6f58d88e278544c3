// The smallest number of an island spreads until nothing changes.
#include <cstdio>
#include <algorithm>
int l[202][202]; char s[204];
int main() {
    int h, w, n = 0; scanf("%d %d", &h, &w);
    for (int i = 1; i <= h; i++) { scanf("%s", s + 1); for (int j = 1; j <= w; j++) l[i][j] = s[j] == '#' ? ++n : 0; }
    int all = n, left = 0;
    auto low = [](int& a, int b) { if (a && b && b < a) { a = b; return true; } return false; };
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 1; i <= h; i++) for (int j = 1; j <= w; j++) moved |= low(l[i][j], l[i - 1][j]) | low(l[i][j], l[i][j - 1]);
        for (int i = h; i; i--) for (int j = w; j; j--) moved |= low(l[i][j], l[i + 1][j]) | low(l[i][j], l[i][j + 1]);
    }
    static bool seen[40001];
    for (int i = 1; i <= h; i++) for (int j = 1; j <= w; j++) if (l[i][j] && !seen[l[i][j]]) seen[l[i][j]] = true, left++;
    printf("%d\n", std::min(all, left));
}

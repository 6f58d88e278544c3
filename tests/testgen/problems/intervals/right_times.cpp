// Over all moments.
#include <cstdio>
#include <algorithm>
static int s[1000001];
int main() {
    int n, c = 0, f = 0; scanf("%d", &n);
    std::fill(s, s + 1000001, -1);
    while (n--) { int a, b; scanf("%d %d", &a, &b); s[b] = std::max(s[b], a); }
    for (int b = 0; b <= 1000000; b++) if (s[b] >= f) c++, f = b;
    printf("%d\n", c);
}

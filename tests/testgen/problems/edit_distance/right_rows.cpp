#include <cstdio>
#include <cstring>
#include <vector>
#include <algorithm>
int main() {
    static char a[400], b[400]; scanf("%s %s", a, b);
    int n = strlen(a), m = strlen(b);
    std::vector<int> p(m + 1), q(m + 1);
    for (int j = 0; j <= m; j++) p[j] = j;
    for (int i = 1; i <= n; i++, p.swap(q)) {
        q[0] = i;
        for (int j = 1; j <= m; j++) { q[j] = p[j - 1] + (a[i - 1] != b[j - 1]); q[j] = std::min(q[j], 1 + std::min(p[j], q[j - 1])); }
    }
    printf("%d\n", p[m]);
}

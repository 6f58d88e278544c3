#include <cstdio>
#include <vector>
int main() {
    int n, m; scanf("%d %d", &n, &m);
    std::vector<std::pair<int, int>> e(m);
    for (auto& x : e) scanf("%d %d", &x.first, &x.second);
    std::vector<char> done(n + 1);
    for (int k = 0; k < n; k++) {
        std::vector<char> b(n + 1);
        for (auto& x : e) if (!done[x.first]) b[x.second] = 1;
        for (int u = n; u; u--) if (!done[u] && !b[u]) { printf("%d ", u); done[u] = 1; break; }
    }
}

#include <cstdio>
#include <algorithm>
static long long d[501][501];
int main() {
    int n, m; scanf("%d %d", &n, &m);
    const long long INF = 1e15;
    for (int i = 1; i <= n; i++) for (int j = 1; j <= n; j++) d[i][j] = i == j ? 0 : INF;
    while (m--) { int u, v; long long w; scanf("%d %d %lld", &u, &v, &w); d[u][v] = std::min(d[u][v], w); }
    for (int k = 1; k <= n; k++) for (int i = 1; i <= n; i++) for (int j = 1; j <= n; j++)
        d[i][j] = std::min(d[i][j], d[i][k] + d[k][j]);
    printf("%lld\n", d[1][n] < INF ? d[1][n] : -1);
}

#include <bits/stdc++.h>
using namespace std;
int main() {
    int n, m; scanf("%d %d", &n, &m);
    vector<vector<int>> g(n); vector<int> in(n), d(n, 1), q;
    for (int u, v; m--;) { scanf("%d %d", &u, &v); g[u - 1].push_back(v - 1); in[v - 1]++; }
    for (int i = 0; i < n; i++) if (!in[i]) q.push_back(i);
    for (size_t i = 0; i < q.size(); i++) for (int v : g[q[i]]) { d[v] = max(d[v], d[q[i]] + 1); if (!--in[v]) q.push_back(v); }
    printf("%d", *max_element(d.begin(), d.end()));
}

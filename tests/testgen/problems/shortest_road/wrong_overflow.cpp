#include <bits/stdc++.h>
using namespace std;
int main() {
    int n, m; cin >> n >> m;
    vector<vector<pair<int, int>>> g(n + 1);
    for (int u, v, w; m--;) { cin >> u >> v >> w; g[u].push_back({v, w}); }
    vector<int> d(n + 1, INT_MAX);
    set<pair<int, int>> q{{0, 1}}; d[1] = 0;
    int steps = 0;
    while (!q.empty() && steps++ < 1000000) {
        auto [k, u] = *q.begin(); q.erase(q.begin());
        for (auto [v, w] : g[u]) if (d[u] + w < d[v]) d[v] = d[u] + w, q.insert({d[v], v});
    }
    cout << (d[n] == INT_MAX ? -1 : d[n]);
}

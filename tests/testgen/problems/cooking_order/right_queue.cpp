#include <bits/stdc++.h>
using namespace std;
int main() {
    int n, m; cin >> n >> m;
    vector<vector<int>> g(n + 1); vector<int> in(n + 1);
    for (int u, v; m--;) cin >> u >> v, g[u].push_back(v), in[v]++;
    priority_queue<int> q;
    for (int u = 1; u <= n; u++) if (!in[u]) q.push(u);
    while (!q.empty()) { int u = q.top(); q.pop(); cout << u << ' '; for (int v : g[u]) if (!--in[v]) q.push(v); }
}

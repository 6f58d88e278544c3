#include <bits/stdc++.h>
using namespace std;
vector<int> g[501], o; bool s[501];
void go(int u) { if (s[u]) return; s[u] = true; for (int v : g[u]) go(v); o.push_back(u); }
int main() {
    int n, m; cin >> n >> m;
    for (int u, v; m--;) cin >> u >> v, g[u].push_back(v);
    for (int u = n; u; u--) go(u);
    for (int i = n; i--;) cout << o[i] << ' ';
}

#include <bits/stdc++.h>
using namespace std;
vector<int> g[2001]; int f[2001];
int go(int u) { if (f[u]) return f[u]; int b = 0; for (int v : g[u]) b = max(b, go(v)); return f[u] = b + 1; }
int main() {
    int n, m, b = 0; cin >> n >> m;
    for (int u, v; m--;) cin >> u >> v, g[u].push_back(v);
    for (int u = 1; u <= n; u++) b = max(b, go(u));
    cout << b;
}

#include <bits/stdc++.h>
using namespace std;
int main() {
    int n, k; cin >> n >> k;
    map<int, vector<int>> at;
    for (int i = 1, x; i <= n; i++) cin >> x, at[x].push_back(i);
    for (auto& [x, p] : at) {
        auto q = at.find(k - x);
        if (q == at.end() || (2 * x == k && p.size() < 2)) continue;
        int i = p[0], j = q->second.back();
        cout << min(i, j) << ' ' << max(i, j);
        return 0;
    }
    cout << -1;
}

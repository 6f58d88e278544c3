#include <bits/stdc++.h>
using namespace std;
int main() {
    int n; cin >> n;
    vector<pair<int, int>> t(n);
    for (auto& x : t) cin >> x.second >> x.first;
    sort(t.begin(), t.end());
    int f = 0, c = 0;
    for (auto& [b, a] : t) if (a >= f) f = b, c++;
    cout << c;
}

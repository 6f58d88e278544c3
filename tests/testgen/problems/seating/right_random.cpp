#include <bits/stdc++.h>
using namespace std;
int main() {
    int n; cin >> n;
    if (n == 2 || n == 3) { cout << -1; return 0; }
    vector<int> r(n); iota(r.begin(), r.end(), 1);
    mt19937 g(5);
    for (;;) {
        bool ok = true;
        for (int i = 1; i < n; i++) ok &= abs(r[i] - r[i - 1]) != 1;
        if (ok) break;
        shuffle(r.begin(), r.end(), g);
    }
    for (int x : r) cout << x << ' ';
}

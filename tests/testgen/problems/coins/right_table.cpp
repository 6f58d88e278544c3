#include <bits/stdc++.h>
using namespace std;
int main() {
    int k, s; cin >> k >> s;
    vector<int> c(k), b(s + 1, 1 << 29);
    for (int& x : c) cin >> x;
    b[0] = 0;
    for (int v : c) for (int x = v; x <= s; x++) b[x] = min(b[x], b[x - v] + 1);
    cout << (b[s] < 1 << 29 ? b[s] : -1);
}

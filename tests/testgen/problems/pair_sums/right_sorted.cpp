#include <bits/stdc++.h>
using namespace std;
int main() {
    long long n, k; cin >> n >> k;
    vector<long long> a(n);
    for (auto& x : a) cin >> x;
    sort(a.begin(), a.end());
    long long t = 0;
    for (int i = 0; i < n; i++) {
        auto r = equal_range(a.begin() + i + 1, a.end(), k - a[i]);
        t += r.second - r.first;
    }
    cout << t << endl;
}

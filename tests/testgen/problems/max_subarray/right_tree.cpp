#include <bits/stdc++.h>
using namespace std;
struct N { long long s, l, r, b; };
N join(N x, N y) { return {x.s + y.s, max(x.l, x.s + y.l), max(y.r, y.s + x.r), max({x.b, y.b, x.r + y.l})}; }
vector<long long> a;
N build(int lo, int hi) {
    if (hi - lo == 1) return {a[lo], a[lo], a[lo], a[lo]};
    int m = (lo + hi) / 2;
    return join(build(lo, m), build(m, hi));
}
int main() {
    int n; cin >> n; a.resize(n);
    for (auto& x : a) cin >> x;
    cout << build(0, n).b;
}

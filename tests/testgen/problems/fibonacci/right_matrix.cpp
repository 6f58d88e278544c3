#include <bits/stdc++.h>
using namespace std;
typedef long long ll;
typedef array<ll, 4> M;
ll m;
M mul(M x, M y) {
    return {(x[0] * y[0] + x[1] * y[2]) % m, (x[0] * y[1] + x[1] * y[3]) % m,
            (x[2] * y[0] + x[3] * y[2]) % m, (x[2] * y[1] + x[3] * y[3]) % m};
}
int main() {
    ll n; cin >> n >> m;
    M r{1, 0, 0, 1}, b{1, 1, 1, 0};
    for (; n; n /= 2, b = mul(b, b)) if (n % 2) r = mul(r, b);
    cout << r[1] % m;
}

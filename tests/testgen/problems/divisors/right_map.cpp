#include <bits/stdc++.h>
using namespace std;
int main() {
    long long n; cin >> n;
    map<long long, int> f;
    while (n % 2 == 0) f[2]++, n /= 2;
    for (long long p = 3; n > 1; p += 2) {
        if (p > n / p) p = n;
        while (n % p == 0) f[p]++, n /= p;
    }
    long long c = 1;
    for (auto& x : f) c *= x.second + 1;
    cout << c << '\n';
}

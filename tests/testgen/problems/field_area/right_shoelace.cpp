#include <bits/stdc++.h>
using namespace std;
int main() {
    int n; cin >> n;
    vector<__int128> x(n), y(n);
    for (int i = 0; i < n; i++) { long long a, b; cin >> a >> b; x[i] = a; y[i] = b; }
    __int128 s = 0;
    for (int i = 0; i < n; i++) { int j = (i + 1) % n; s += x[i] * y[j] - x[j] * y[i]; }
    if (s < 0) s = -s;
    string t;
    do t += char('0' + int(s % 10)); while (s /= 10);
    reverse(t.begin(), t.end());
    cout << t;
}

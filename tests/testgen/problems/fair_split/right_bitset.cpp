#include <bits/stdc++.h>
using namespace std;
int main() {
    int n, t = 0; cin >> n;
    bitset<20001> b; b[0] = 1;
    for (int x; n--;) cin >> x, b |= b << x, t += x;
    int h = t / 2;
    while (!b[h]) h--;
    cout << t - 2 * h;
}

#include <bits/stdc++.h>
using namespace std;
int main() {
    long long n, k, at = 0; cin >> n >> k;
    vector<int> c(n); iota(c.begin(), c.end(), 1);
    while (c.size() > 1) { at = (at + k - 1) % c.size(); c.erase(c.begin() + at); }
    cout << c[0] << endl;
}

#include <bits/stdc++.h>
using namespace std;
bool p[1501][1501];
int main() {
    string s; cin >> s; int n = s.size(), t = 0;
    for (int i = n - 1; i >= 0; i--) for (int j = i; j < n; j++) t += p[i][j] = s[i] == s[j] && (j - i < 2 || p[i + 1][j - 1]);
    cout << t;
}

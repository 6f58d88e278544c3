#include <bits/stdc++.h>
using namespace std;
int d[301][301];
int main() {
    string a, b; cin >> a >> b;
    for (size_t i = 0; i <= a.size(); i++) for (size_t j = 0; j <= b.size(); j++)
        d[i][j] = !i ? j : !j ? i : min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
    cout << d[a.size()][b.size()];
}

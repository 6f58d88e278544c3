#include <bits/stdc++.h>
using namespace std;
int h, w; vector<string> g;
void sink(int i, int j) {
    if (i < 0 || j < 0 || i >= h || j >= w || g[i][j] != '#') return;
    g[i][j] = '.';
    sink(i + 1, j); sink(i - 1, j); sink(i, j + 1); sink(i, j - 1);
}
int main() {
    cin >> h >> w; g.resize(h);
    for (auto& r : g) cin >> r;
    int c = 0;
    for (int i = 0; i < h; i++) for (int j = 0; j < w; j++) if (g[i][j] == '#') { c++; sink(i, j); }
    cout << c;
}

#include <iostream>
#include <string>
#include <algorithm>
#include <cstring>
std::string a, b; int f[301][301];
int go(int i, int j) {
    if (!i || !j) return i + j;
    int& r = f[i][j];
    if (r >= 0) return r;
    if (a[i - 1] == b[j - 1]) return r = go(i - 1, j - 1);
    return r = 1 + std::min(go(i - 1, j - 1), std::min(go(i, j - 1), go(i - 1, j)));
}
int main() { memset(f, -1, sizeof f); std::cin >> a >> b; std::cout << go(a.size(), b.size()) << '\n'; }

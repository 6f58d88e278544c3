#include <iostream>
#include <string>
#include <algorithm>
std::string a, b;
int go(int i, int j) {
    if (!i || !j) return i + j;
    if (a[i - 1] == b[j - 1]) return go(i - 1, j - 1);
    return 1 + std::min(go(i - 1, j - 1), std::min(go(i, j - 1), go(i - 1, j)));
}
int main() { std::cin >> a >> b; std::cout << go(a.size(), b.size()); }

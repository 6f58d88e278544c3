#include <iostream>
#include <cstdlib>
int main() {
    int n, x0, y0, px, py, x, y; std::cin >> n >> x0 >> y0; px = x0; py = y0;
    long long s = 0;
    for (int i = 1; i <= n; i++) {
        if (i < n) std::cin >> x >> y; else x = x0, y = y0;
        s += (int)((unsigned)px * y - (unsigned)x * py);
        px = x; py = y;
    }
    std::cout << llabs(s);
}

#include <iostream>
int main() {
    long long n; int m; std::cin >> n >> m;
    int c = 1, d = 0;
    for (int i = 62; i >= 0; i--) {
        int e = (c * c + d * d) % m, f = (2 * c * d + d * d) % m;
        c = e; d = f;
        if (n >> i & 1) { e = d; d = (c + d) % m; c = e; }
    }
    std::cout << d % m;
}

#include <iostream>
#include <vector>
int main() {
    int n; std::cin >> n;
    std::vector<long long> x(n), y(n);
    for (int i = 0; i < n; i++) std::cin >> x[i] >> y[i];
    __int128 s = 0;
    for (int i = 2; i < n; i++)
        s += (__int128)(x[i - 1] - x[0]) * (y[i] - y[0]) - (__int128)(x[i] - x[0]) * (y[i - 1] - y[0]);
    std::cout << (long long)(s < 0 ? -s : s);
}

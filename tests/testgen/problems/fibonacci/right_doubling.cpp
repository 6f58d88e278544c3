#include <iostream>
#include <utility>
long long m;
std::pair<long long, long long> go(long long n) {
    if (!n) return {0, 1 % m};
    auto [a, b] = go(n >> 1);
    long long c = a * ((2 * b - a + m) % m) % m, d = (a * a % m + b * b) % m;
    return n & 1 ? std::make_pair(d, (c + d) % m) : std::make_pair(c, d);
}
int main() { long long n; std::cin >> n >> m; std::cout << go(n).first << "\n"; }

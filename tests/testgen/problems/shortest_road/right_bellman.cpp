#include <iostream>
#include <vector>
struct R { int u, v; long long w; };
int main() {
    int n, m; std::cin >> n >> m;
    std::vector<R> r(m);
    for (auto& e : r) std::cin >> e.u >> e.v >> e.w;
    std::vector<long long> d(n + 1, -1);
    d[1] = 0;
    for (int i = 0; i < n; i++)
        for (auto& e : r)
            if (d[e.u] >= 0 && (d[e.v] < 0 || d[e.u] + e.w < d[e.v])) d[e.v] = d[e.u] + e.w;
    std::cout << d[n] << std::endl;
}

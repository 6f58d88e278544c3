#include <iostream>
#include <vector>
int main() {
    int n, m; std::cin >> n >> m;
    std::vector<std::pair<int, int>> e(m);
    for (auto& x : e) std::cin >> x.first >> x.second;
    std::vector<char> alive(n + 1, 1);
    int rounds = 0, left = n;
    while (left) {
        std::vector<char> blocked(n + 1, 0);
        for (auto& x : e) if (alive[x.first]) blocked[x.second] = 1;
        for (int u = 1; u <= n; u++) if (alive[u] && !blocked[u]) alive[u] = 0, left--;
        rounds++;
    }
    std::cout << rounds;
}

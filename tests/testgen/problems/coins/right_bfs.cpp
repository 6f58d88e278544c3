#include <iostream>
#include <queue>
#include <vector>
int main() {
    int k, s; std::cin >> k >> s;
    std::vector<int> c(k), d(s + 1, -1);
    for (int& x : c) std::cin >> x;
    std::queue<int> q; q.push(s); d[s] = 0;
    while (!q.empty()) {
        int x = q.front(); q.pop();
        for (int v : c) if (v <= x && d[x - v] < 0) d[x - v] = d[x] + 1, q.push(x - v);
    }
    std::cout << d[0] << "\n";
}

#include <iostream>
#include <map>
#include <vector>
int main() {
    int n; std::cin >> n;
    std::multimap<int, int, std::greater<int>> t;
    for (int a, b; n--;) { std::cin >> a >> b; t.insert({a, b}); }
    std::map<int, int> best{{2000000, 0}};  // from a moment on
    int top = 0;
    for (auto [a, b] : t) { top = std::max(top, 1 + best.lower_bound(b)->second); best[a] = top; }
    std::cout << top;
}

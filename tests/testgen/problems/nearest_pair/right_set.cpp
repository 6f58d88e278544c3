#include <cmath>
#include <iostream>
#include <iomanip>
#include <set>
#include <vector>
#include <algorithm>
int main() {
    int n; std::cin >> n;
    std::vector<std::pair<double, double>> p(n);
    for (auto& q : p) std::cin >> q.first >> q.second;
    std::sort(p.begin(), p.end());
    std::multiset<std::pair<double, double>> s;
    double d = 1e9; int f = 0;
    for (auto& q : p) {
        while (p[f].first < q.first - d) s.erase(s.find({p[f].second, p[f].first})), f++;
        for (auto i = s.lower_bound({q.second - d, -1e9}); i != s.end() && i->first <= q.second + d; ++i)
            d = std::min(d, std::hypot(i->first - q.second, i->second - q.first));
        s.insert({q.second, q.first});
    }
    std::cout << std::fixed << std::setprecision(7) << d;
}

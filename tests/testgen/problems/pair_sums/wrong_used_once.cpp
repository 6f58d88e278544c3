#include <bits/stdc++.h>
int main() {
    long long n, k, x, total = 0;
    std::cin >> n >> k;
    std::multiset<long long> waiting;
    for (; n; n--) {
        std::cin >> x;
        auto partner = waiting.find(k - x);
        if (partner == waiting.end()) waiting.insert(x);
        else waiting.erase(partner), total++;
    }
    std::cout << total;
}

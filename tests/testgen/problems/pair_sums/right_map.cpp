#include <bits/stdc++.h>
int main() {
    long long n, k, x, total = 0;
    std::cin >> n >> k;
    std::unordered_map<long long, long long> seen;
    for (; n; n--) { std::cin >> x; auto f = seen.find(k - x); if (f != seen.end()) total += f->second; seen[x]++; }
    std::cout << total;
}

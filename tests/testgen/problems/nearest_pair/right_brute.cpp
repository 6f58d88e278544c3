#include <bits/stdc++.h>
int main() {
    int n; std::cin >> n;
    std::vector<long long> x(n), y(n);
    long long b = LLONG_MAX;
    for (int i = 0; i < n; i++) {
        std::cin >> x[i] >> y[i];
        for (int j = 0; j < i; j++) b = std::min(b, (x[i] - x[j]) * (x[i] - x[j]) + (y[i] - y[j]) * (y[i] - y[j]));
    }
    printf("%.10f", std::sqrt((double)b));
}

#include <cstdio>
#include <vector>
#include <algorithm>
int main() {
    int n;
    scanf("%d", &n);
    std::vector<long long> p(n + 1);
    for (int i = 0; i < n; i++) { scanf("%lld", &p[i + 1]); p[i + 1] += p[i]; }
    long long best = p[1];
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j <= n; j++) best = std::max(best, p[j] - p[i]);
    printf("%lld\n", best);
}

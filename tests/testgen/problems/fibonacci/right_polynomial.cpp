#include <cstdio>
int main() {
    long long n, m; scanf("%lld %lld", &n, &m);
    unsigned long long c = 1, d = 0;
    for (int i = 62; i >= 0; i--) {
        unsigned long long e = (c * c + d * d) % m, f = (2 * (c * d % m) + d * d) % m;
        c = e; d = f;
        if (n >> i & 1) { e = d; d = (c + d) % m; c = e; }
    }
    printf("%llu\n", d % m);
}

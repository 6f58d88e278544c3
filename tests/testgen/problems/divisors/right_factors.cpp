#include <cstdio>
int main() {
    unsigned long long n, c = 1;
    scanf("%llu", &n);
    for (unsigned long long p = 2; p * p <= n; p++) {
        int e = 1;
        for (; n % p == 0; n /= p) e++;
        c *= e;
    }
    printf("%llu", n > 1 ? 2 * c : c);
}

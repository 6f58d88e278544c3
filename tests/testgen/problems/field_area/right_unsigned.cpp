// Wraps round, but the result, at most 8 * 10^18, does not.
#include <cstdio>
int main() {
    int n; scanf("%d", &n);
    long long x0, y0, px, py, x, y; scanf("%lld %lld", &x0, &y0); px = x0; py = y0;
    unsigned long long s = 0;
    for (int i = 1; i <= n; i++) {
        if (i < n) scanf("%lld %lld", &x, &y); else x = x0, y = y0;
        s += (unsigned long long)px * (unsigned long long)y - (unsigned long long)x * (unsigned long long)py;
        px = x; py = y;
    }
    long long r = (long long)s;
    printf("%lld\n", r < 0 ? -r : r);
}

#include <cstdio>
static long long a[20000];
int main() {
    long long n, k, t = 0;
    scanf("%lld %lld", &n, &k);
    for (int i = 0; i < n; i++) { scanf("%lld", a + i); for (int j = 0; j < i; j++) t += a[i] + a[j] == k; }
    printf("%lld", t);
}

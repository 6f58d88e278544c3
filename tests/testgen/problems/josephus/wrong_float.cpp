#include <cstdio>
int main() {
    int n; float k; scanf("%d %f", &n, &k);
    long long r = 0;
    for (int i = 2; i <= n; i++) r = (r + (long long)k) % i;
    printf("%lld", r + 1);
}

#include <cstdio>
#include <cstdlib>
#include <algorithm>
int a[1000], b[1000];
int main() {
    int n, r = 0; scanf("%d", &n);
    for (int i = 0; i < n; i++) {
        if (scanf("%d", a + i) != 1) exit(1);
        b[i] = 1;
        for (int j = 0; j < i; j++) if (a[j] < a[i]) b[i] = std::max(b[i], b[j] + 1);
        r = std::max(r, b[i]);
    }
    printf("%d", r);
}

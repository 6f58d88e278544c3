#include <cstdio>
#include <vector>
int main() {
    int n, k; scanf("%d %d", &n, &k);
    std::vector<int> a(n);
    for (int& x : a) scanf("%d", &x);
    for (int d = 1; d < n; d++) for (int i = 0; i + d < n; i++)
        if (a[i] + a[i + d] == k) { printf("%d %d", i + 1, i + d + 1); return 0; }
    printf("-1");
}

// Swaps a guest who sits badly with another one until nobody does.
#include <cstdio>
#include <cstdlib>
#include <utility>
int r[202], n;
int bad() { int c = 0; for (int i = 2; i <= n; i++) c += abs(r[i] - r[i - 1]) == 1; return c; }
int main() {
    scanf("%d", &n);
    if (n == 2 || n == 3) { printf("-1"); return 0; }
    for (int i = 1; i <= n; i++) r[i] = i;
    srand(3);
    for (int now = bad(); now;) {
        int i = rand() % n + 1, j = rand() % n + 1;
        std::swap(r[i], r[j]);
        int then = bad();
        if (then <= now) now = then; else std::swap(r[i], r[j]);
    }
    for (int i = 1; i <= n; i++) printf("%d ", r[i]);
}

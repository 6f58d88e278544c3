#include <cstdio>
static bool gone[3000];
int main() {
    int n, k; scanf("%d %d", &n, &k);
    int at = n - 1;
    for (int left = n; left > 1; left--) {
        for (int steps = (k - 1) % left + 1; steps;) { at = (at + 1) % n; if (!gone[at]) steps--; }
        gone[at] = true;
    }
    for (int i = 0; i < n; i++) if (!gone[i]) printf("%d", i + 1);
}

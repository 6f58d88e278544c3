#include <cstdio>
#include <cmath>
#include <algorithm>
int main() {
    int n; scanf("%d", &n);
    static float x[1000], y[1000];
    float b = 1e18f;
    for (int i = 0; i < n; i++) {
        scanf("%f %f", x + i, y + i);
        for (int j = 0; j < i; j++) b = std::min(b, (x[i] - x[j]) * (x[i] - x[j]) + (y[i] - y[j]) * (y[i] - y[j]));
    }
    printf("%.2f", std::sqrt(b));
}

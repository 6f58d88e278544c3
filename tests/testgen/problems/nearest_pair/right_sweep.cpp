#include <cstdio>
#include <cmath>
#include <algorithm>
struct P { double x, y; } p[1000];
int main() {
    int n; scanf("%d", &n);
    for (int i = 0; i < n; i++) scanf("%lf %lf", &p[i].x, &p[i].y);
    std::sort(p, p + n, [](const P& a, const P& b) { return a.x < b.x; });
    double b = 1e18;
    for (int i = 0; i < n; i++)
        for (int j = i + 1; j < n && p[j].x - p[i].x < b; j++) b = std::min(b, std::hypot(p[j].x - p[i].x, p[j].y - p[i].y));
    printf("%.12g\n", b);
}

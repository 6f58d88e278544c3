#include <cstdio>
#include <cstdlib>
#include <set>
int main() {
    int n; scanf("%d", &n);
    std::set<int> s{0};
    for (int x; n--;) { scanf("%d", &x); std::set<int> t; for (int d : s) t.insert(d + x), t.insert(abs(d - x)); s.swap(t); }
    printf("%d", *s.begin());
}

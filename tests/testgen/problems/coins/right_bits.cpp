#include <bitset>
#include <cstdio>
int main() {
    int k, s, c[12]; scanf("%d %d", &k, &s);
    for (int i = 0; i < k; i++) scanf("%d", c + i);
    static std::bitset<10001> now, next; now[0] = 1;
    for (int n = 0; n <= s; n++) {
        if (now[s]) { printf("%d", n); return 0; }
        next.reset();
        for (int i = 0; i < k; i++) next |= now << c[i];
        now = next;
    }
    printf("-1");
}

#include <cstdio>
#include <cstring>
#include <string>
static char s[2000];
int main() {
    scanf("%s", s);
    int n = strlen(s), t = 0;
    std::string r(s, n); r.assign(r.rbegin(), r.rend());
    for (int i = 0; i < n; i++) for (int k = 1; i + k <= n; k++)
        if (s[i] == s[i + k - 1] && !memcmp(s + i, r.data() + n - i - k, k)) t++;
    printf("%d", t);
}

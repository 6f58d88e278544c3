#include <cstdio>
static char st[5001];
int main() {
    int n = 0, best = 0, c;
    while ((c = getchar()) != EOF && c != '\n') {
        switch (c) {
            case '(': st[n++] = ')'; break;
            case '[': st[n++] = ']'; break;
            case '{': st[n++] = '}'; break;
            default: if (!n || st[--n] != c) { printf("-1"); return 0; }
        }
        if (n > best) best = n;
    }
    printf("%d", n ? -1 : best);
}

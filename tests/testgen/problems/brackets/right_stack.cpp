#include <bits/stdc++.h>
using namespace std;
int main() {
    string s, k; cin >> s;
    size_t best = 0;
    for (char c : s) {
        if (c == '(' || c == '[' || c == '{') { k += c; best = max(best, k.size()); continue; }
        char o = c == ')' ? '(' : c == ']' ? '[' : '{';
        if (k.empty() || k.back() != o) { puts("-1"); return 0; }
        k.pop_back();
    }
    cout << (k.empty() ? (int)best : -1);
}

#include <iostream>
#include <string>
#include <algorithm>
std::string s; size_t at = 0; bool bad = false;
int boxes() {
    int best = 0;
    while (!bad && at < s.size() && std::string("([{").find(s[at]) != std::string::npos) {
        char open = s[at++];
        int d = boxes() + 1;
        if (at >= s.size() || (open == '(' ? s[at] != ')' : s[at] != open + 2)) bad = true;
        at++;
        best = std::max(best, d);
    }
    return best;
}
int main() { std::cin >> s; int d = boxes(); std::cout << (bad || at != s.size() ? -1 : d) << "\n"; }

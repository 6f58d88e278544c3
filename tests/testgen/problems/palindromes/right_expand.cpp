#include <iostream>
#include <string>
int main() {
    std::string s; std::cin >> s;
    long long t = 0; int n = s.size();
    for (int c = 0; c < n; c++)
        for (int e = 0; e < 2; e++)
            for (int i = c, j = c + e; i >= 0 && j < n && s[i] == s[j]; i--, j++) t++;
    std::cout << t << "\n";
}

#include <iostream>
#include <cstdlib>
#include <vector>
int main() {
    int n; std::cin >> n;
    std::vector<char> d(20001), e; d[0] = 1;
    for (int x; n--; d = e) {
        std::cin >> x; e.assign(20001, 0);
        for (int i = 0; i <= 20000; i++) if (d[i]) { if (i + x <= 20000) e[i + x] = 1; e[std::abs(i - x)] = 1; }
    }
    int i = 0; while (!d[i]) i++;
    std::cout << i;
}

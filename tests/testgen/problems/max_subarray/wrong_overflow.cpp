#include <iostream>
int main() {
    int n, x, here = -1, best = -2147483647;
    std::cin >> n;
    while (n--) {
        std::cin >> x;
        here = here < 0 ? x : here + x;
        if (here > best) best = here;
    }
    std::cout << best << "\n";
}

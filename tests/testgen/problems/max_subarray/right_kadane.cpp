#include <iostream>
int main() {
    long long n, x, here = -4e18, best = -4e18;
    std::cin >> n;
    while (n--) {
        std::cin >> x;
        here = here < 0 ? x : here + x;
        if (here > best) best = here;
    }
    std::cout << best << "\n";
}

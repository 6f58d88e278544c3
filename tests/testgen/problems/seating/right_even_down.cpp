#include <iostream>
int main() {
    int n; std::cin >> n;
    if (n == 2 || n == 3) std::cout << -1;
    else if (n == 4) std::cout << "2 4 1 3";
    else {
        for (int x = n / 2 * 2; x > 0; x -= 2) std::cout << x << ' ';
        for (int x = (n - 1) / 2 * 2 + 1; x > 0; x -= 2) std::cout << x << ' ';
    }
}

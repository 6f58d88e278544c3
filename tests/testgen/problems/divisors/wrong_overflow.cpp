#include <iostream>
int main() {
    long long n; std::cin >> n;
    int m = n, c = 0;
    for (int i = 1; (long long)i * i <= m; i++) if (m % i == 0) c += i * i == m ? 1 : 2;
    std::cout << c;
}

#include <iostream>
int a[1000];
int main() {
    int n, k; std::cin >> n >> k;
    for (int i = 0; i < n; i++) std::cin >> a[i];
    for (int j = n - 1; j > 0; j--) for (int i = 0; i < j; i++)
        if (a[i] + a[j] == k) { std::cout << i + 1 << ' ' << j + 1; return 0; }
    std::cout << -1;
}

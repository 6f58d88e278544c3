#include <iostream>
#include <set>
int main() {
    int n; std::cin >> n;
    std::set<int> s;
    for (int x; n--;) {
        if (!(std::cin >> x)) return 2;
        auto i = s.insert(x);
        if (i.second && ++i.first != s.end()) s.erase(i.first);
    }
    std::cout << s.size();
}

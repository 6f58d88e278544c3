#include <iostream>
#include <numeric>
#include <string>
#include <vector>
std::vector<int> p;
int find(int x) { return p[x] == x ? x : p[x] = find(p[x]); }
int main() {
    int h, w, c = 0; std::cin >> h >> w;
    p.resize(h * w); std::iota(p.begin(), p.end(), 0);
    std::string up(w, '.'), row;
    for (int i = 0; i < h; i++, up = row) {
        std::cin >> row;
        for (int j = 0; j < w; j++) if (row[j] == '#') {
            c++;
            if (up[j] == '#') p[find(i * w + j - w)] = find(i * w + j), c--;
            if (j && row[j - 1] == '#' && find(i * w + j) != find(i * w + j - 1)) p[find(i * w + j - 1)] = find(i * w + j), c--;
        }
    }
    std::cout << c << "\n";
}

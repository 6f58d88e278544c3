    return std::gcd(a, b);

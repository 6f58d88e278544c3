    long a = 0, b = 1;
    while (n-- > 0) a = std::exchange(b, a + b);
    return a;

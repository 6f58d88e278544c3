    l.erase(std::remove_if(l.begin(), l.end(), [](long x) { return x <= 0; }), l.end());
    return l;

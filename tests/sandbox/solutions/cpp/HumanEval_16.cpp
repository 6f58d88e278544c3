    std::set<int> seen;
    for (unsigned char c : string) seen.insert(std::tolower(c));
    return seen.size();

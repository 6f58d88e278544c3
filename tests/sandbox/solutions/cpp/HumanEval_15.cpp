    std::string line = "0";
    for (long i = 1; i <= n; i++) line += " " + std::to_string(i);
    return line;

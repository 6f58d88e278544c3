    for (long &x : l) x++;
    return l;

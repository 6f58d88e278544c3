    return count(array_filter(count_chars(strtolower($string), 1)));
}

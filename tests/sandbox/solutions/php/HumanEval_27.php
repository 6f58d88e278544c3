    return strtr($string, implode(range("a", "z")) . implode(range("A", "Z")), implode(range("A", "Z")) . implode(range("a", "z")));
}

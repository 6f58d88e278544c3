    return array_values(array_filter($l, fn($x) => $x > 0));
}

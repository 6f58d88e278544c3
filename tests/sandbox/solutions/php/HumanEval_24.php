    for ($divisor = intdiv($n, 2); $divisor > 1; $divisor--) {
        if ($n % $divisor === 0) {
            return $divisor;
        }
    }
    return 1;
}

        return b == 0 ? a : greatestCommonDivisor(b, a % b);

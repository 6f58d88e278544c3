        while (b != 0)
        {
            long rest = a % b;
            a = b;
            b = rest;
        }
        return a;

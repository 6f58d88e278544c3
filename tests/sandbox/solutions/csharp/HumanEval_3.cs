        long balance = 0;
        foreach (var change in operations)
        {
            balance += change;
            if (balance < 0) return true;
        }
        return false;

        return l.Where(x => x > 0).ToList();

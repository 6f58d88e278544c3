        return l.Select(x => x + 1).ToList();

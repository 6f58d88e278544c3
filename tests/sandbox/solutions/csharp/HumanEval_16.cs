        return str.ToLower().Distinct().Count();

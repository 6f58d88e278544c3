        var sorted = numbers.OrderBy(x => x).ToList();
        return sorted.Zip(sorted.Skip(1), (a, b) => b - a).Any(gap => gap < threshold);

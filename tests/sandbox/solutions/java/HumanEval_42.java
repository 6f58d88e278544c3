        return l.stream().map(x -> x + 1).collect(Collectors.toCollection(ArrayList::new));

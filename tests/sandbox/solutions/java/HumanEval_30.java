        ArrayList<Long> kept = new ArrayList<>(l);
        kept.removeIf(x -> x <= 0);
        return kept;

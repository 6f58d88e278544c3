package org.javatuples;

import java.util.Objects;

/** The part of the javatuples interface that MultiPL-E's Java tests use. */
public final class Pair<A, B> {
    private final A first;
    private final B second;

    public Pair(A first, B second) {
        this.first = first;
        this.second = second;
    }

    public static <A, B> Pair<A, B> with(A first, B second) {
        return new Pair<>(first, second);
    }

    public A getValue0() {
        return first;
    }

    public B getValue1() {
        return second;
    }

    public <X> Pair<X, B> setAt0(X value) {
        return new Pair<>(value, second);
    }

    public <X> Pair<A, X> setAt1(X value) {
        return new Pair<>(first, value);
    }

    @Override
    public boolean equals(Object other) {
        return other instanceof Pair<?, ?> p && Objects.equals(first, p.first) && Objects.equals(second, p.second);
    }

    @Override
    public int hashCode() {
        return Objects.hash(first, second);
    }

    @Override
    public String toString() {
        return "[" + first + ", " + second + "]";
    }
}

"""Running code that nobody trusts: one interface, several isolation backends, an HTTP service and its client."""

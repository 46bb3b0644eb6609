"""The control way: which weights serve, and how they change without a request noticing."""

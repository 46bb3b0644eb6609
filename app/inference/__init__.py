"""One request from its fields to its answer: knows no HTTP."""

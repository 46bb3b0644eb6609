"""Many requests → one batch → many answers. Knows no TensorFlow and no HTTP."""

"""Makes a servable version of an export and a checkpoint, with TensorFlow, in a process of its own."""

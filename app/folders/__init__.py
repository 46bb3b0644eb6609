"""What lies in a policy's folder: told by its files, without TensorFlow."""

"""The versions that a worker has loaded: the one that serves, the next one, and those that sessions stay on."""

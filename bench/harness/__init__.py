"""What all measurements share: servers, the load generator, a trainer, the machine, and their command lines."""

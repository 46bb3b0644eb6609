"""Recorded observations answered again, by the version that answered then or by another one, and compared."""

"""Runs the functions of a policy on arrays, whatever computes them."""

"""Requests that cost their sender little, each beside a neighbour that asks small ones: `python -m bench.attack`."""

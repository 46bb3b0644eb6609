"""Serves TF-Agents policies over HTTP and swaps their weights while it serves."""

# The one place for it: the package, `--version`, /openapi.json and the metrics take it from here.
__version__ = "0.2.0"

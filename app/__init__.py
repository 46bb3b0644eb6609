"""Serves TF-Agents policies over HTTP and swaps their weights while it serves."""

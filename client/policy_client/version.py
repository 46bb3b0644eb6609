"""The version of this package: `pyproject.toml`, `policy_client.__version__` and the User-Agent have it from here."""

__version__ = "0.2.0"

"""The environment variables that a server reads, for tests of files and pages that name them."""

from app.settings import all_settings, file_variable, variable


def known_variables() -> set[str]:
    """Of every setting, of every file with a secret in it, and of the policies."""
    settings = all_settings()
    secrets = {file_variable(setting) for setting in settings if setting.metadata["secret"]}
    return {variable(setting.name) for setting in settings} | secrets | {variable("policies")}

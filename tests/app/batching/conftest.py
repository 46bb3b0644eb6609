import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop of the real server, whose handles are not those of asyncio."""
    return "asyncio", {"use_uvloop": True}

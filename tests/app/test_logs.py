import subprocess
import sys

import pytest

from tests.server import ROOT


@pytest.mark.parametrize(
    ("logger", "shown"),
    [
        ("uvicorn.error", "policy_server.http"),
        ("uvicorn", "policy_server.http"),
        ("policy_server", "policy_server"),
        ("asyncio", "asyncio"),
    ],
)
def test_lines_are_those_of_the_server_and_not_of_a_logger_called_error(logger: str, shown: str) -> None:
    program = (
        f"import logging\nfrom app import logs\nlogs.configure('info')\nlogging.getLogger({logger!r}).warning('x')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr.rstrip().endswith(f" WARNING {shown}: x")

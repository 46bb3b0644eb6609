"""One server for all files of this folder: what is refused has to leave it as it was."""

from collections.abc import Iterator

import pytest

from tests.integration.swaps.bad_checkpoints.scenario import FILLER, UPLOAD_LIMIT, Scenario
from tests.support.policies import NumberTrainer
from tests.support.server import serving


@pytest.fixture(scope="package")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    folder = tmp_path_factory.mktemp("bad")
    ours = NumberTrainer(folder / "p", filler=FILLER)
    plain = NumberTrainer(folder / "elsewhere", plain=True, filler=FILLER)
    with serving({"p": ours.folder}, prepared=True, POLICY_SERVER_UPLOAD_LIMIT_BYTES=str(UPLOAD_LIMIT)) as server:
        made = Scenario(folder, server, ours, plain)
        with made.load:
            made.serve_good()
            yield made
    assert "Traceback" not in "\n".join(server.lines)


@pytest.fixture(autouse=True)
def _no_request_fails(scenario: Scenario) -> Iterator[None]:
    yield
    scenario.load.more(5)
    failures = scenario.load.new_failures()
    scenario.back_to_base()  # also after a test that has failed
    scenario.load.new_failures()
    assert failures == []

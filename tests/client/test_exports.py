"""What other libraries' forms cannot hold is said in one line, before anything is written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import ml_dtypes
import numpy as np
import pytest
from gymnasium import spaces

from policy_client import exports
from policy_client.exports import to_minari, to_tfrecord
from policy_client.recordings import Recording

FLOATS = {"name": "o", "dtype": "float32", "shape": [4]}
INFO: dict[str, Any] = {"list": []}


def leaf(dtype: str, *shape: int | None, **bounds: Any) -> dict[str, Any]:
    return {"name": "o", "dtype": dtype, "shape": list(shape), **bounds}


def recorded(observation: Any = FLOATS, action: Any = FLOATS) -> Recording:
    """No rows of a policy with these specs."""
    nothing: Iterator[Any] = iter(())
    specs = {"inputs": {"dict": {"observation": observation}}, "action": action, "info": INFO}
    return Recording(specs, nothing)


@pytest.mark.parametrize(
    ("observation", "says"),
    [
        (leaf("string"), "^observation has text, which Minari's datasets do not take"),
        ({"dict": {"a": FLOATS, "b": {"list": [leaf("float32", None, 2)]}}}, r"^observation/b/0 has rows of differing"),
    ],
)
def test_a_leaf_that_has_no_space_is_named(observation: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        to_minari(recorded(observation), "a/b-v0")


@pytest.mark.parametrize("name", ["served", "a/b", "a/b-v", "a b-v0", ""])
def test_a_dataset_needs_a_name_with_a_version(name: str) -> None:
    with pytest.raises(ValueError, match="expected one with a version, like cartpole/served-v0"):
        to_minari(recorded(), name)


def test_where_there_are_no_rows_nothing_is_written(tmp_path: Path) -> None:
    assert to_tfrecord(recorded(), tmp_path / "out") == "there are no rows"
    assert to_minari(recorded(), "a/b-v0") == "there are no whole episodes"
    assert not list(tmp_path.iterdir())


def test_spaces_are_those_of_every_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Discrete` takes a dtype in the newest ones alone."""

    class Discrete(spaces.Discrete):
        def __init__(self, n: int, seed: Any = None, start: int = 0) -> None:
            super().__init__(n, seed, start)

    monkeypatch.setattr(gymnasium.spaces, "Discrete", Discrete)
    assert exports._space(leaf("int32", minimum=0, maximum=3), "action") == spaces.Discrete(4)


def test_bfloat16_lies_there_as_float32() -> None:
    assert exports._space(leaf("bfloat16", 2, minimum=-1.0, maximum=1.0), "action").dtype == np.float32
    assert np.ones(2, ml_dtypes.bfloat16).astype(exports._stored("bfloat16")).dtype == np.float32

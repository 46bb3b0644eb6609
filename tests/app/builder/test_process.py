"""Who is to blame for a refusal: the checkpoint, or the machine."""

import errno
import pickle

import pytest

from app.builder.process import _blamed
from app.errors import PolicyServerError, SwapRefused, UnusablePolicy


def failing(error: Exception, refusal: Exception | None = None) -> None:
    try:
        raise error
    except Exception:
        if refusal is None:
            raise
        raise refusal from None


@pytest.mark.parametrize(
    ("error", "for_now", "no_room"),
    [
        (OSError(errno.ENOSPC, "full"), True, True),
        (OSError(errno.EDQUOT, "full"), True, True),
        (OSError(errno.EMFILE, "too many"), True, False),
        (MemoryError(), True, False),
        (OSError(errno.ENOENT, "gone"), False, False),
        (ValueError("odd"), False, False),
    ],
)
def test_a_refusal_for_which_the_machine_is_to_blame_is_one_for_now(
    error: Exception, for_now: bool, no_room: bool
) -> None:
    with pytest.raises(SwapRefused) as caught:
        _blamed(failing, error, SwapRefused("in other words"))
    arrived = pickle.loads(pickle.dumps(caught.value))
    assert (str(arrived), arrived.for_now, arrived.no_room) == ("in other words", for_now, no_room)


def test_what_the_machine_does_not_give_is_no_bug() -> None:
    with pytest.raises(SwapRefused, match="cannot go on: MemoryError") as caught:
        _blamed(failing, MemoryError("much"))
    assert caught.value.for_now
    for error in (ValueError("a bug"), UnusablePolicy("cannot be loaded")):
        with pytest.raises(type(error)) as same:
            _blamed(failing, error)
        assert same.value is error
    assert not isinstance(ValueError(), PolicyServerError)

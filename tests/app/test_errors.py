import errno
import inspect
import os
import re

import pytest

from app import errors


def classes() -> dict[str, type]:
    return {
        name: kind
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.PolicyServerError)
    }


def drawn() -> dict[str, str]:
    """Class → its base, as the drawing at the top of the file has them."""
    line = re.compile(r"^( {4}[ │├└─]*)([A-Z][A-Za-z]+)(?:\s|$)")
    found: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for match in filter(None, map(line.match, (errors.__doc__ or "").splitlines())):
        depth, name = len(match[1]), match[2]
        above = [(d, n) for d, n in above if d < depth]
        found[name] = above[-1][1] if above else "Exception"
        above.append((depth, name))
    return found


def test_the_drawn_tree_is_the_tree_of_classes():
    assert drawn() == {name: kind.__base__.__name__ for name, kind in classes().items()}


@pytest.mark.parametrize("kind", classes().values(), ids=classes())
def test_every_error_says_what_it_is(kind):
    assert kind.__doc__


def test_message_of_does_not_fit_names_the_first_problem_and_counts_the_others():
    problems = [errors.Problem("observation", "shape [3]", "float32 of shape [4]")]
    assert str(errors.DoesNotFit(problems)) == "observation: shape [3]; expected float32 of shape [4]"
    assert str(errors.DoesNotFit(problems * 3)).endswith("; 2 more errors")
    assert str(errors.DoesNotFit(problems * 2)).endswith("; 1 more error")
    assert errors.DoesNotFit(problems).problems == tuple(problems)


def test_overloaded_says_when_to_come_again():
    assert errors.Overloaded("full").retry_after_s == 1
    assert errors.Overloaded("full", 7).retry_after_s == 7


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE, errno.EACCES])
def test_what_is_the_machines_trouble_is_distinguished_from_what_is_a_files(number):
    def in_other_words() -> None:
        try:
            raise OSError(number, os.strerror(number))
        except OSError:
            raise ValueError("in other words") from None

    with pytest.raises(ValueError, match="in other words") as caught:
        in_other_words()
    assert errors.is_passing(caught.value)
    assert errors.is_passing(MemoryError())
    for other in (
        FileNotFoundError(errno.ENOENT, "gone"),
        OSError(errno.EINVAL, "odd"),
        ValueError(os.strerror(number)),
    ):
        assert not errors.is_passing(other)

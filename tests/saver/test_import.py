import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = "{name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'tf_agents', 'tensorflow_probability'}"


@pytest.mark.parametrize(
    "statement",
    [
        "import saver",
        "import saver.artifact",
        "import saver.push, saver.__main__",
        "from saver import artifact",
        "import app.control.manager, app.api.problems",
    ],
)
def test_importing_formats_and_server_imports_no_tensorflow(statement):
    code = f"import sys\n{statement}\nprint({HEAVY} or 'light')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "light"


def test_policy_saver_is_there_when_it_is_asked_for():
    from saver import PolicySaver
    from saver.policy_saver import PolicySaver as Direct

    assert PolicySaver is Direct


def test_public_names_are_what_they_should_be():
    import saver

    assert saver.__all__ == ["PolicySaver"]
    with pytest.raises(AttributeError, match="module 'saver' has no attribute 'PolicySave'"):
        saver.PolicySave  # noqa: B018


def test_saver_needs_nothing_but_numpy_until_a_policy_is_saved():
    """A trainer's environment has neither an HTTP client nor what prints tables."""
    code = (
        "import sys\nbefore = set(sys.modules)\nimport saver.push, saver.__main__\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(n for n in new - set(sys.stdlib_module_names) - {'saver'} if 'cython' not in n))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['numpy']"

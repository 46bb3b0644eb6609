"""What must be installed beside the saver: a trainer has it already, so that the package itself does not ask for it."""

from __future__ import annotations

import importlib.util
import sys

_HINT = "pip install 'policy-saver[tf-agents]', or tensorflow and tf-agents as your trainer has them"


def require(*modules: str) -> None:
    """Makes sure that these top-level modules can be imported; imports none.

    Raises:
      ImportError: one is not installed; the message says in one line what to do.
    """
    missing = [name for name in modules if name not in sys.modules and not importlib.util.find_spec(name)]
    if missing:
        raise ImportError(f"saver needs {' and '.join(missing)}, not installed here: {_HINT}", name=missing[0])

"""The builder process while it starts: it takes seconds to import TensorFlow, and a server may end meanwhile."""

import os
import socket
import subprocess
import sys
from pathlib import Path

# It says that it is being imported, and takes for ever.
_TENSORFLOW = "import sys, threading\nprint('importing', flush=True)\nthreading.Event().wait()\n"


def test_it_ends_with_its_link_while_tensorflow_is_imported(tmp_path: Path) -> None:
    (tmp_path / "tensorflow.py").write_text(_TENSORFLOW)
    near, far = socket.socketpair()
    words = [sys.executable, "-P", "-m", "app.builder", str(far.fileno()), "auto", "info", "text", str(tmp_path)]
    path = os.pathsep.join((str(tmp_path), str(Path.cwd())))
    with (
        near,
        subprocess.Popen(
            words, pass_fds=[far.fileno()], stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path}
        ) as process,
    ):
        far.close()
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"importing\n"
            near.close()
            assert process.wait(60) == 0
        finally:
            process.kill()

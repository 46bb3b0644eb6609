"""nginx with a constant: the least that an answer costs in a server that is written in C, one process as ours."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench import BenchError

# Where Debian puts it, which is on the path of root alone.
_BESIDE = "/usr/sbin"


def command(folder: Path, port: int, answer: bytes, media_type: str) -> list[str]:
    """The command line of one that answers so; its files go to `folder`.

    Raises:
      BenchError: it is not installed.
    """
    program = shutil.which("nginx") or shutil.which("nginx", path=_BESIDE)
    if program is None:
        raise BenchError("nginx is not installed (Debian: apt install nginx); it takes no part")
    folder.mkdir()
    file = folder / "nginx.conf"
    file.write_text(_configuration(folder, port, answer.decode(), media_type))
    return [program, "-e", "stderr", "-p", str(folder), "-c", str(file)]


def _configuration(folder: Path, port: int, answer: str, media_type: str) -> str:
    """It keeps its connections, and writes no log."""
    temporary = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        ("user root;\n" if os.geteuid() == 0 else "")
        + f"daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log stderr;\n"
        + "events { worker_connections 2048; }\nhttp {\n  access_log off;\n  keepalive_requests 1000000000;\n"
        + temporary
        + f"  server {{\n    listen 127.0.0.1:{port};\n    location / {{\n      default_type {media_type};\n"
        + f"      return 200 '{answer}';\n    }}\n  }}\n}}\n"
    )

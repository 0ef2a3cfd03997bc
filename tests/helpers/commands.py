"""Commands as users start them: processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(name: str, *arguments: str, code: int = 0, cwd: Path = ROOT) -> str:
    """Returns what `python -m cnn_jax.NAME` prints, or its error output where it must end with another code than 0."""
    line = [sys.executable, "-m", f"cnn_jax.{name}", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, cwd=cwd, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout

"""Commands as users start them: processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def process(*words: str, cwd: Path = ROOT, **options) -> subprocess.CompletedProcess:
    """Returns the finished process `python WORDS`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    given = dict(cwd=cwd, capture_output=True, text=True, timeout=300, env=environment) | options
    return subprocess.run([sys.executable, *words], **given)

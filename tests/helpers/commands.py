"""Commands as users start them, in separate processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns the environment of a process that has that many CPU devices, our package and these helpers."""
    return os.environ | {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'helpers'}",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }


def process(*words: str, cwd: Path = ROOT, **options) -> subprocess.CompletedProcess:
    """Returns the finished process `python WORDS`."""
    given = dict(cwd=cwd, capture_output=True, text=True, timeout=300, env=environment()) | options
    return subprocess.run([sys.executable, *words], **given)

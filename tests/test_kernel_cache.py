"""The cache of compiled kernels when several processes fill it at once, as parallel tests do on a new machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MODULE = """
from lagrad.kernel import kernel

@kernel
def half(x):
    return x / 2

index = half._cache._cache_file
"""
COMPILE = "import cached; cached.half(3.5)"
# Another process that saw the cache empty, and whose index was overwritten before it wrote its machine code.
COMPILE_LATE = """
import cached
cached.index._load_index = lambda: {}
cached.index._save_index = lambda overloads: None
cached.half(3)
"""
USE = "import cached; print(cached.half(3.5), sum(cached.half.stats.cache_hits.values()))"


def test_processes_that_compile_at_once_do_not_exchange_machine_code(tmp_path: Path) -> None:
    (tmp_path / "cached.py").write_text(MODULE)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
    }

    def run(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    run(COMPILE)
    assert run(USE) == "1.75 1"
    run(COMPILE_LATE)
    assert run(USE) == "1.75 1"

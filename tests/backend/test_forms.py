"""One batch in every form that JAX can give it has one answer, on input drawn anew each run."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("eight_devices.py")


def test_batch_singles_vmap_jit_chunks_and_eight_devices_agree():
    paths = [str(PROGRAM.parents[1]), str(PROGRAM.parents[2]), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, str(PROGRAM)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "8", "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr  # the seed comes first
    assert ended.stdout.endswith("all forms agree\n")

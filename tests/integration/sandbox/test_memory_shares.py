"""What a process is counted for: its share, and nothing once it has ended, however lately it was listed."""

from __future__ import annotations

import os
import subprocess
import sys

from ringfence_sandbox.inside.watch import proportional_bytes


def test_a_process_that_has_ended_counts_for_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-c", "x = bytearray(b'x') * (20 << 20)"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert proportional_bytes(ended.pid) == 0  # a zombie, still listed
    ended.wait()
    assert proportional_bytes(ended.pid) == 0


def test_a_process_that_lives_counts_for_what_it_holds() -> None:
    code = "import sys; x = bytearray(b'x') * (20 << 20); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as living:
        assert living.stdout is not None
        living.stdout.readline()
        assert proportional_bytes(living.pid) > 20 << 20

"""Which process this is, told by processes that are forked."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from lightning_privacy.mechanisms._process import this_process

# A child, its child, and once more with a number that is always the same, as where the system gives it out again.
FORKING = """
import json, os
from lightning_privacy.mechanisms._process import this_process
found = []
def generations(left):
    found.append(this_process())
    reading, writing = os.pipe()
    if not left:
        return
    pid = os.fork()
    if pid == 0:
        found.clear()
        generations(left - 1)
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    found.extend(json.loads(os.read(reading, 4096)))
generations(2)
own, os.getpid = found.copy(), lambda: 7
found.clear()
generations(2)
print(json.dumps([own, found, this_process()]))
"""


def test_a_process_stays_itself() -> None:
    assert this_process() == this_process()
    assert this_process()[0] == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_p25_each_child_of_a_fork_is_another_process_whatever_its_number() -> None:
    ran = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, check=True, text=True)
    own, numbered, after = json.loads(ran.stdout)
    assert [forks for _, forks in own] == [0, 1, 2]
    assert len({pid for pid, _ in own}) == 3
    assert numbered == [[7, 0], [7, 1], [7, 2]]
    assert after == [7, 0], "a fork made the parent another process"

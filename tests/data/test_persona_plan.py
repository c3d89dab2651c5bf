"""The name of a plan: the same in every process, and another one for whatever may give other tables."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from functools import partial

import numpy as np
import polars as pl
import pytest
from sklearn.neighbors import KNeighborsClassifier

from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.image_labels import ImageLabelErrors
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.preparation import LabelErrors, Preparation, Step

SCRIPT = """
from functools import partial
import numpy as np, polars as pl
from lightning_privacy.data.persona.generator import PersonaGenerator
from lightning_privacy.data.persona.image_labels import ImageLabelErrors
from lightning_privacy.data.persona.plan import Plan
from lightning_privacy.preparation import LabelErrors, Preparation, Step

class Holds(Step):
    name = "holds"
    def __init__(self, thing):
        super().__init__()
        self.thing = thing
    def _apply(self, frame):
        return frame

def scaled(value, factor):
    return [item * factor for item in (value, lambda: factor)]

class Worker:
    __slots__ = ()
    def work(self): ...

things = [pl.Series("a", [1, None]), pl.DataFrame({"a": ["x"]}), np.arange(3000), partial(scaled, factor=2), scaled,
          str.lower, np.mean, Holds, "text".upper, {"a", "b"}, Holds(1).run]
steps = [LabelErrors(features=["x"], label="y"), ImageLabelErrors(), *map(Holds, things)]
print(Plan(source=PersonaGenerator(), preparation=Preparation(steps)).fingerprint)
"""


def test_it_is_the_same_in_another_process():
    """Whatever a step holds: columns, arrays, functions, classes. An address in memory would make it another one."""
    there = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    here = io.StringIO()
    with contextlib.redirect_stdout(here):
        exec(compile(SCRIPT, "<string>", "exec"), {"__name__": "__main__"})
    assert len(here.getvalue()) == 33
    assert here.getvalue() == there


class Holds(Step):
    """Has one thing."""

    name = "holds"

    def __init__(self, thing):
        super().__init__()
        self.thing = thing

    def _apply(self, frame):
        return frame


def _fingerprint(*steps):
    return Plan(source=PersonaGenerator(), preparation=Preparation(steps)).fingerprint


def _adding(number):
    return lambda value: value + number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (np.arange(3000), np.arange(3000) % 1500),
        (np.zeros(4), np.zeros(4, np.float32)),
        (pl.Series([1] * 100), pl.Series([1] * 50 + [2] + [1] * 49)),
        (pl.DataFrame({"a": [1]}), pl.DataFrame({"b": [1]})),
        (lambda value: value + 1, lambda value: value + 2),
        (_adding(1), _adding(2)),
        (partial(_adding, 1), partial(_adding, 2)),
        (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
    ],
    ids=["array", "type", "column", "table", "functions", "closures", "partial", "pattern"],
)
def test_another_content_is_another_plan(one, other):
    assert _fingerprint(Holds(one)) != _fingerprint(Holds(other))
    assert _fingerprint(Holds(one)) == _fingerprint(Holds(one))


def test_settings_of_models_count():
    plans = {
        _fingerprint(step)
        for step in (
            ImageLabelErrors(),
            ImageLabelErrors(model=KNeighborsClassifier(3)),
            ImageLabelErrors(seed=1),
            LabelErrors(features=["image"], label="label"),
        )
    }
    assert len(plans) == 4

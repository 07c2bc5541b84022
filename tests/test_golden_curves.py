"""Seeded runs of every task say what they said when golden/curves.json was made."""

import json
import math

import pytest
from golden.cases import CASES
from golden.make_curves import CURVES, Runs, differences

GOLDEN = json.loads(CURVES.read_text())


@pytest.fixture(scope="module")
def runs(one_device, tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


def test_every_case_has_curves():
    assert list(GOLDEN) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_curves_are_those_that_were_kept(case, runs):
    """To notice a change that is not meant to change anything. Another CPU rounds differently, so this allows
    for a little; make_curves.py --check allows for nothing."""
    rtol = 2e-2 if CASES[case][1].get("model.dtype") == "bfloat16" else 1e-5
    assert not differences(case, runs.curves(case), GOLDEN[case], rtol)


def test_the_last_digit_is_compared():
    loss = [2.0, None, 1.5]
    assert not differences("a", {"loss": loss, "new": [1.0]}, {"loss": loss})
    near = [2.0, None, math.nextafter(1.5, 2)]
    assert differences("a", {"loss": near}, {"loss": loss}) == [
        "a: loss at step 3: 1.5000000000000002, expected 1.5"
    ]
    assert not differences("a", {"loss": near}, {"loss": loss}, rtol=1e-6)
    for other in ([2.0, 1.0, 1.5], [None, None, 1.5], [2.0, None]):
        assert differences("a", {"loss": other}, {"loss": loss}, rtol=1e-6)
    assert differences("a", {}, {"loss": loss}) == ["a: loss: 0 steps, expected 3"]

"""What the processes of a run do together; test_multihost.py has real ones."""

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from bertjax import distributed
from bertjax.distributed import any_process, together
from bertjax.errors import InputError


def fails(error):
    raise error


@pytest.fixture
def another_process(monkeypatch):
    """another_process(yes): there is one more process, in which it is true or false."""

    def there_is(yes):
        monkeypatch.setattr(jax, "process_count", lambda: 2)
        monkeypatch.setattr(multihost_utils, "process_allgather", lambda own: np.array([own, np.int32(yes)]))

    return there_is


@pytest.mark.parametrize("error", [InputError("bad"), OSError(28, "No space left")])
def test_alone_a_process_has_its_own_result_or_error(error):
    assert (any_process(True), any_process(False)) == (True, False)
    assert together(lambda: 7) == 7
    with pytest.raises(type(error)) as caught:
        together(lambda: fails(error))
    assert caught.value is error


def test_what_is_true_on_one_process_is_true_on_all(another_process):
    for other in (False, True):
        another_process(other)
        assert any_process(True)
        assert any_process(False) == other


def test_an_error_of_one_process_is_one_of_all(another_process):
    another_process(True)
    with pytest.raises(InputError, match="another process of the run could not go on"):
        together(lambda: 7)
    another_process(False)
    assert together(lambda: 7) == 7
    for other in (False, True):
        another_process(other)
        with pytest.raises(InputError, match="mine"):  # its own, not that of another
            together(lambda: fails(InputError("mine")))


def test_another_kind_of_error_is_not_told_to_the_others(monkeypatch):
    """It is a mistake of the program, whose traceback must not wait for anybody."""
    monkeypatch.setattr(distributed, "any_process", lambda yes: fails(AssertionError("asked the others")))
    with pytest.raises(ZeroDivisionError):
        together(lambda: 1 // 0)

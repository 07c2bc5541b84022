import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from bertjax.data import rng

KEY = np.uint64(0x1234_5678_9ABC_DEF0)


def test_draw_is_splitmix64():
    # The first outputs for seed 1234567 of the reference implementation.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [int(rng.draw(np.uint64(1234567), i)) for i in range(4)] == expected


def test_compiled_and_plain_functions_agree():
    with np.errstate(over="ignore"):
        for i in range(50):
            assert rng.draw.py_func(KEY, i) == rng.draw(KEY, i)
            assert rng.below.py_func(KEY, i, 1000) == rng.below(KEY, i, 1000)
            assert rng.chance.py_func(KEY, i) == rng.chance(KEY, i)
            assert rng.permute.py_func(i, 57, KEY) == rng.permute(i, 57, KEY) if i < 57 else True


def test_below_and_chance_are_uniform():
    n = 20_000
    counts = np.bincount([rng.below(KEY, i, 7) for i in range(n)], minlength=7)
    assert len(counts) == 7
    assert abs(counts - n / 7).max() < 5 * np.sqrt(n / 7)
    values = np.array([rng.chance(KEY, i) for i in range(n)])
    assert values.min() >= 0
    assert values.max() < 1
    np.testing.assert_allclose(np.quantile(values, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.02)


@pytest.mark.parametrize("n", [*range(1, 40), 1000, 4096, 4097, 65_535])
def test_permute_is_a_bijection(n):
    places = rng.permute_range(0, n, n, KEY)
    assert np.array_equal(np.sort(places), np.arange(n))
    if n > 1000:
        assert np.mean(places == rng.permute_range(0, n, n, KEY + np.uint64(1))) < 0.01
        assert abs(np.corrcoef(places, np.arange(n))[0, 1]) < 5 / np.sqrt(n)


def test_permute_spreads_every_index_over_all_places():
    n, keys = 12, 6000
    counts = np.zeros((n, n))
    for k in range(keys):
        counts[np.arange(n), rng.permute_range(0, n, n, rng.root_key(k))] += 1
    chi_square = ((counts - keys / n) ** 2 / (keys / n)).sum()
    assert chi_square < 121 + 5 * np.sqrt(2 * 121)  # (n - 1)**2 degrees of freedom


def test_permute_spreads_every_two_indices_over_all_pairs_of_places():
    n, keys = 12, 12_000
    counts = np.zeros((3, n, n))
    for k in range(keys):
        places = rng.permute_range(0, n, n, rng.root_key(k))
        for i, (a, b) in enumerate(
            ((0, 1), (0, 4), (5, 11))
        ):  # in a row of the grid, in a column, in neither
            counts[i, places[a], places[b]] += 1
    expected = keys / (n * (n - 1))
    apart = ~np.eye(n, dtype=bool)
    assert not counts[:, ~apart].any()
    chi_square = ((counts[:, apart] - expected) ** 2 / expected).sum(1)
    assert (chi_square < 131 + 5 * np.sqrt(2 * 131)).all()  # n (n - 1) - 1 degrees of freedom


def test_permute_of_a_large_range():
    n = 5_000_000_017
    places = rng.permute_range(n - 20_000, 20_000, n, KEY)
    assert places.min() >= 0
    assert places.max() < n
    assert len(np.unique(places)) == 20_000
    np.testing.assert_allclose(np.quantile(places / n, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.02)


def test_root_keys_differ():
    values = [(0, 0), (0, 1), (1, 0), (-1, 0), (0,), (0, 0, 0), (2**64 - 2, 0)]
    assert len({int(rng.root_key(*v)) for v in values}) == len(values)
    assert rng.root_key(3, 4) == rng.root_key(3, 4)


def test_a_changed_helper_compiles_its_callers_anew(tmp_path):
    """numba by itself would go on using the kept caller with the old helper inside."""
    shutil.copy(rng.__file__, tmp_path / "rng.py")
    (tmp_path / "outer.py").write_text(
        "from helper import helper\nfrom rng import jit\n\n@jit\ndef outer(x):\n    return helper(x)\n"
    )

    def run(constant: int) -> str:
        source = f"from rng import jit\n\n@jit\ndef helper(x):\n    return x + {constant}\n"
        (tmp_path / "helper.py").write_text(source)
        command = [sys.executable, "-c", "from outer import outer; print(outer(1))"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")} | {
            "PYTHONPATH": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()

    assert run(1) == "2"
    assert list(tmp_path.glob("cache/bertjax/numba-*/**/*.nbc"))
    assert run(2) == "3"

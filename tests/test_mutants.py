"""The tool that shows that tests notice faults, on a package of one module; and that its list fits ours."""

import pytest
from mutants.run import LIST, ROOT, ListError, Mutant, check, read_list, run

MODULE = """
def larger(a, b):
    return a if a > b else b


def clipped(x, most):
    return min(x, most)
"""
TESTS = """
from toy.arithmetic import clipped, larger


def test_larger():
    assert larger(1, 2) == larger(2, 1) == 2


def test_clipped():
    assert clipped(3, 2) <= 2
"""


@pytest.fixture
def project(tmp_path):
    for name, text in {
        "toy/__init__.py": "",
        "toy/arithmetic.py": MODULE,
        "tests/test_arithmetic.py": TESTS,
        "pyproject.toml": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return tmp_path


def mutant(old, new, test, name="fault", **more):
    return Mutant(name, "arithmetic.py", old, new, (f"test_arithmetic.py::{test}",), **more)


SMALLER = mutant("a > b", "a < b", "test_larger", "the smaller one")
LARGEST = mutant("min(x, most)", "most", "test_clipped", "always the most")


def outcome(project, *mutants, **options):
    lines = []
    passed = run(mutants, project, "toy", report=lines.append, **options)
    return passed, lines


def test_a_fault_that_tests_notice_is_killed_and_another_one_is_reported(project):
    passed, lines = outcome(project, SMALLER, LARGEST, jobs=2)
    assert not passed
    assert sorted(lines[:2]) == ["SURVIVED    always the most", "killed      the smaller one"]
    assert lines[2:] == ["1 of 2 killed, 1 not; 0 equivalent"]
    assert (project / "toy/arithmetic.py").read_text() == MODULE
    assert {path.name for path in project.iterdir()} == {"toy", "tests", "pyproject.toml"}


def test_one_that_nobody_could_notice_is_not_tried(project):
    same = mutant("a > b", "a >= b", "test_larger", "equal ones", equivalent="they are equal")
    passed, lines = outcome(project, same, SMALLER)
    assert passed
    assert lines == [
        "equivalent  equal ones: they are equal", "killed      the smaller one",
        "1 of 1 killed, 0 not; 1 equivalent",
    ]  # fmt: skip


def test_tests_that_fail_without_a_fault_are_no_proof(project):
    (project / "tests/test_arithmetic.py").write_text(TESTS.replace("== 2", "== 3"))
    passed, lines = outcome(project, SMALLER)
    assert not passed
    assert "the tests do not pass without a change" in lines[-1]
    assert not any(line.startswith("killed") for line in lines)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (mutant("a >= b", "a < b", "test_larger"), "fault: arithmetic.py: its old text is there 0 times"),
        (mutant("return", "raise", "test_larger"), "fault: arithmetic.py: its old text is there 2 times"),
        (mutant("a > b", "a >", "test_larger"), "fault: arithmetic.py: the change is not Python"),
        (mutant("a > b", "a < b", "test_smaller"), "fault: tests/test_arithmetic.py::test_smaller: no such"),
        (Mutant("fault", "geometry.py", "a", "b", ()), "fault: geometry.py: no such file"),
        (Mutant("fault", "arithmetic.py", "a > b", "a < b", ()), "fault: names no test"),
    ],
)
def test_an_entry_that_does_not_fit_is_an_error(project, entry, message):
    with pytest.raises(ListError) as caught:
        outcome(project, entry)
    assert message in str(caught.value)


def test_a_list_is_read_and_its_mistakes_are_errors(tmp_path):
    path = tmp_path / "mutants.toml"
    text = '[[mutant]]\nname = "n"\nfile = "f.py"\nold = "a"\nnew = "b"\ntests = ["t.py"]\n'
    path.write_text(text)
    assert read_list(path) == [Mutant("n", "f.py", "a", "b", ("t.py",))]
    path.write_text(text + 'tset = "t.py"\n')
    with pytest.raises(ListError, match=r"mutants\.toml: n: .*tset"):
        read_list(path)
    with pytest.raises(ListError, match="the name is there twice"):
        check([SMALLER, SMALLER], tmp_path, "toy")


def test_the_list_fits_the_package():
    mutants = read_list(LIST)
    check(mutants, ROOT, "bertjax")
    assert len({mutant.file for mutant in mutants}) > 5

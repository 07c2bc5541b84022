import pytest
from trained_fixture import make_trained


@pytest.fixture(scope="module", autouse=True)
def small(one_device):
    """What devices change, nothing, is looked at where a test names them."""


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The workdir of a toy model with all heads of pre-training; nobody changes it."""
    workdir = str(tmp_path_factory.mktemp("model"))
    make_trained(workdir)
    return workdir

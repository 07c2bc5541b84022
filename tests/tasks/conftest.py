import pytest
from trained_fixture import make_trained


@pytest.fixture(scope="module", autouse=True)
def runs_on_one_device(one_device):
    """Where devices matter a test makes a mesh of them, or has eight_devices."""


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The workdir of a toy model with all heads of pre-training; nobody changes it."""
    workdir = str(tmp_path_factory.mktemp("model"))
    make_trained(workdir)
    return workdir

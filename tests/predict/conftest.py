import pytest
from trained_fixture import make_trained

from bertjax.trained_model import load_trained


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("run"))
    make_trained(folder)
    return folder


@pytest.fixture(scope="module")
def model(workdir):
    return load_trained(workdir)

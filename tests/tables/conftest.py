import pytest
from elmo_fixture import make_word_store
from gpt_fixture import make_gpt_store
from store_fixture import TESTS
from tables_fixture import write_data


@pytest.fixture(autouse=True)
def repository(monkeypatch):
    monkeypatch.chdir(TESTS.parent)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with GLUE, squad and ner."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def other_stores(tmp_path_factory):
    """The flags that name the texts of OpenAI GPT and of ELMo."""
    folder = tmp_path_factory.mktemp("stores")
    make_gpt_store(folder / "gpt")
    return f"--gpt_store={folder / 'gpt'}", f"--elmo_store={make_word_store(folder)}"

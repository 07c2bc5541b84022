"""What pyproject.toml cannot say: configs/ is installed as bertjax/configs, so that all users have them."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["bertjax*"]), "bertjax.configs"],
    package_dir={"bertjax.configs": "configs"},
)

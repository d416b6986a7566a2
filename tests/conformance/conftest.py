"""The suite sees the extension as a user would: its package on Python's path, its folder of configuration named by the environment."""

import os
import sys

import pytest

from bmfm.cli import CONFIG_DIR
from tests.conformance.cases import EXTENSION

sys.path.append(str(EXTENSION))  # when tests are collected, as they are listed from configuration


@pytest.fixture(scope="session", autouse=True)
def extension():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_DIR, str(EXTENSION / "conf"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(EXTENSION), os.environ.get("PYTHONPATH", "")]))
        yield

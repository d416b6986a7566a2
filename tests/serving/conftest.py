"""Servers in this process: of the model of DNA that ships, and of a small model of cells with labels."""

import time
import warnings
from contextlib import contextmanager

import pytest

import bmfm
from tests.conftest import SLICE_FASTA

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from bmfm.genome.reference import Reference
from bmfm.serving.app import create_app
from bmfm.serving.batching import Limits
from bmfm.serving.engine import Engine


@contextmanager
def serving(model, reference=None, **limits):
    """A client of a server that is warm; like a real one, it says nothing on stderr."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with TestClient(create_app(Engine(model, Limits(**limits), reference))) as client:
            while client.get("/health").status_code != 200:
                time.sleep(0.02)
            yield client


@pytest.fixture(scope="session")
def dna():
    return bmfm.load("bmfm-dna-mini")


@pytest.fixture(scope="session")
def dna_client(dna, cache):
    with serving(dna, Reference.from_fasta(SLICE_FASTA), max_body_mb=0.5, max_examples=200) as client:
        yield client


@pytest.fixture(scope="session")
def cells(cells_model):
    return bmfm.load(cells_model)


@pytest.fixture(scope="session")
def cells_client(cells):
    with serving(cells) as client:
        yield client

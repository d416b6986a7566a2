"""The suite sees the extension as a user would: its package on Python's path, its folder of configuration named by the environment."""

import os
import sys
from functools import cache

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from bmfm.cli import CONFIG_DIR, compose
from bmfm.files import ASSETS
from bmfm.training.run import assemble
from tests.cells.test_cells import OBO
from tests.conformance.cases import EXTENSION, USER_CONFIG

sys.path.append(str(EXTENSION))  # when tests are collected, as they are listed from configuration


@pytest.fixture(scope="package", autouse=True)
def extension():
    """The configuration of the example extension, for the tests of this folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CONFIG_DIR, str(USER_CONFIG))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(EXTENSION), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> dict[str, str]:
    """Labelled examples of both omics: ``cells`` (an .h5ad with columns of labels), ``ontology`` of their types, ``table`` of sequences."""
    folder = tmp_path_factory.mktemp("conformance")
    rng = np.random.default_rng(0)
    cells = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:96]
    cells = cells[:, np.argsort(-np.asarray(cells.X.sum(0)).ravel())[:300]].copy()
    cells.obs["cell_type"] = rng.choice(["T cell", "B cell", "unknown"], 96, p=[0.5, 0.3, 0.2])
    for column, values in {"tissue": 2, "tissue_general": 2, "donor_id": 5, "sex": 2}.items():
        cells.obs[column] = rng.choice([f"{column} {i}" for i in range(values)], 96)
    cells.write_h5ad(folder / "cells.h5ad")
    (folder / "cl.obo").write_text(OBO)
    sequences = ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(20, 60, 96)]
    table = pd.DataFrame({"sequence": sequences, "second": sequences[::-1], "label": rng.choice(["a", "b", ""], 96, p=[0.3, 0.4, 0.3])})
    table["number"] = np.where(rng.random(96) < 0.7, rng.normal(size=96), np.nan)
    table["tags"] = rng.choice(["x", "x|y", "y"], 96)
    table["bases"] = ["".join("01"[base in "CG"] for base in sequence) for sequence in sequences]
    table.to_csv(folder / "table.csv", index=False)
    from bmfm_extension_example.make_cells import make_cells

    make_cells(folder / "pairs.h5ad", n_cells=6)
    return {
        "pairs": str(folder / "pairs.h5ad"),
        "cells": str(folder / "cells.h5ad"),
        "ontology": str(folder / "cl.obo"),
        "table": str(folder / "table.csv"),
    }


@pytest.fixture(scope="session")
def assembled(files):
    """Data, objectives and model of the overrides of a run, made once; whoever changes them takes a copy."""

    @cache
    def assemble_once(*overrides: str):
        torch.manual_seed(0)
        return assemble(compose("train", [o.format(**files) for o in overrides]))

    return assemble_once

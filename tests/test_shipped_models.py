"""The models that ship: small, loaded by name, trained on what their cards say, and on no test cell."""

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

import bmfm
from bmfm.data.splits import split_examples
from bmfm.evaluation.checksums import content_hash
from bmfm.files import ASSETS
from bmfm.training.transparency import ITEMS, unstated

MODELS = sorted(path.name for path in (ASSETS / "models").iterdir())


def test_each_name_ships():
    assert MODELS == ["bmfm-dna-mini", "bmfm-rna-mini"]


@pytest.mark.parametrize("name", MODELS)
def test_it_is_small_and_says_what_it_was_trained_on(name):
    folder = ASSETS / "models" / name
    assert sum(file.stat().st_size for file in folder.iterdir()) < 6e6
    training_data = json.loads((folder / "training_data.json").read_text())["files"]
    shipped = [entry for entry in training_data if entry["file"].startswith("bmfm/assets/")]
    assert len(training_data) > len(shipped) > 0
    assert [content_hash([ASSETS.parent.parent / entry["file"]]) for entry in shipped] == [entry["sha256"] for entry in shipped]


def test_genes_that_training_cells_do_not_express_keep_apart():
    """Their embeddings differ as drawn, where AdamW's normed steps would move them together (to .75 of their length); see docs/results.md."""
    model, adata = bmfm.load("bmfm-rna-mini"), anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    counted = set(adata.var_names[np.asarray(adata.X.sum(0)).ravel() > 0])
    is_not = np.array([name not in counted and not name.startswith("[") for name in model.tokenizer.vocabulary.names])
    rows = model.model.embeddings.encoder("input_ids").table().detach().numpy()[is_not]
    assert len(rows) > 5000
    assert np.linalg.norm(rows.mean(0)) < 0.1 * np.linalg.norm(rows, axis=1).mean()


@pytest.mark.parametrize("name", MODELS)
def test_its_card_states_every_item(name):
    """Data, splits, licence, hardware, hours, energy, evaluation, limits and out-of-scope use; numbers where they are numbers."""
    card = (ASSETS / "models" / name / "README.md").read_text()
    assert unstated(card) == []
    assert re.search(r"^\| hours \| \d", card, re.M) and re.search(r"^\| energy \| about \d+ Wh, an estimate", card, re.M)
    assert unstated(card.replace("| hours |", "| time |")) == ["hours"] and unstated("# A model") == list(ITEMS)


def test_cells_of_one_type_are_near_one_another():
    """Test cells of a task, which it was not trained on: their types are learned from the embeddings of other cells."""
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    types = adata.obs["cell_type"].astype(str).to_numpy()
    split = {"by": "stratified", "column": "cell_type", "validation": 0.1, "test": 0.1, "seed": 0}
    parts = split_examples(split, adata.n_obs, lambda column: types)
    left_out = pd.read_csv(ASSETS / "rna" / "test_cells.csv")
    assert set(adata.obs_names[parts["test"]]) <= set(left_out[left_out["file"] == "pbmc3k.h5ad"]["cell"])
    train = parts["train"][:600][types[parts["train"][:600]] != "unlabelled"]
    test = parts["test"][types[parts["test"]] != "unlabelled"]
    embeddings = bmfm.load("bmfm-rna-mini").embed(adata[np.concatenate([train, test])], progress=False)
    probe = LogisticRegression(max_iter=200).fit(embeddings[: len(train)], types[train])
    assert accuracy_score(types[test], probe.predict(embeddings[len(train) :])) > 0.88


def test_bases_of_a_genome_are_likelier_than_shuffled_ones():
    """They are better predicted than by chance, and better than those of the same sequences shuffled."""
    import pysam

    model = bmfm.load("bmfm-dna-mini")
    with pysam.FastaFile(str(ASSETS / "genome" / "chr20_slice.fa.gz")) as fasta:
        texts = [fasta.fetch(fasta.references[0], start, start + 400).upper() for start in range(500_000, 506_000, 400)]
    rng = np.random.default_rng(0)
    shuffled = ["".join(rng.permutation(list(text))) for text in texts]
    of_genome, of_shuffle = (model.log_probs(t, mask_share=0.15, progress=False).log_probs.mean() for t in (texts, shuffled))
    assert of_genome > np.log(1 / 4) + 0.03
    assert of_shuffle < of_genome - 0.05

"""The command ``bmfm explain`` for models of cells."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest

from bmfm.cli import compose
from bmfm.explain import run_explain
from bmfm.inference import shared_run
from bmfm.interpret import edit_run, explain
from tests.interpret.conftest import MARKERS


def composed(files, output, *more):
    checkpoint, cells = files
    return compose("explain", [f"checkpoint={checkpoint}", f"data.path={cells}", f"output={output}", "progress=false", *more])


def test_the_command_writes_cells_table_and_picture(planted_files, tmp_path, capsys):
    outputs = f"[{tmp_path / 'e.h5ad'},{tmp_path / 'e.csv'},{tmp_path / 'e.png'}]"
    run_explain(composed(planted_files, outputs, "target=head:cell_type", "attribution.n_steps=10", "attribution.baseline=mask"))
    table = pd.read_csv(tmp_path / "e.csv")
    assert set(table[(table["class"] == "b") & (table["direction"] == "for")]["gene"][:5]) == set(MARKERS["b"])
    assert anndata.read_h5ad(tmp_path / "e.h5ad").layers["ig_cell_type"].shape == (90, 40)
    assert (tmp_path / "e.png").stat().st_size > 10_000
    assert "head:cell_type by ig: 90 cells" in capsys.readouterr().out
    assert not list(tmp_path.glob(".e.h5ad.*"))
    with pytest.raises(SystemExit, match="exists already"):
        run_explain(composed(planted_files, tmp_path / "e.csv", "target=head:cell_type"))


def test_an_interrupted_run_goes_on_where_it_was(planted_files, tmp_path, monkeypatch):
    config = composed(planted_files, tmp_path / "e.h5ad", "target=head:cell_type", "attribution.n_steps=4", "batch_size=30")
    attribute, calls = explain.attribute, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return attribute(*arguments, **options)

    monkeypatch.setattr(explain, "attribute", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_explain(config)
    run_explain(config)
    assert len(calls) == 4  # two batches before, and the third once more
    run_explain(composed(planted_files, tmp_path / "whole.h5ad", "target=head:cell_type", "attribution.n_steps=4", "batch_size=30"))
    found, whole = (anndata.read_h5ad(tmp_path / name).layers["ig_cell_type"].toarray() for name in ("e.h5ad", "whole.h5ad"))
    np.testing.assert_array_equal(found, whole)


@pytest.mark.parametrize(
    ("method", "target", "n"),
    [("ig", "head:cell_type", 3), pytest.param("occlusion", "head:cell_type", 3, marks=pytest.mark.slow), ("edit", None, 2)],
)
def test_what_workers_did_is_put_together(planted_files, tmp_path, monkeypatch, method, target, n):
    """A worker adds all parts and writes no output; what is computed after that is none, and the same as alone."""
    monkeypatch.setattr(edit_run, "PAIRS", 50 * 40)
    settings = [f"method={method}", f"target={target or 'null'}", "attribution.n_steps=3", "batch_size=30"]
    run_explain(composed(planted_files, tmp_path / "alone.csv", *settings))
    config = composed(planted_files, tmp_path / "e.csv", *settings)

    def never(*arguments):
        raise AssertionError("computed twice")

    def workers(config, run, ledger):
        run(config, replace(ledger, is_worker=True))
        assert ledger.n_finished() == n and not (tmp_path / "e.csv").exists()
        for module, name in ((explain, "_explain_batch"), (explain, "_occlude"), (edit_run.EditRun, "shifts_of")):
            monkeypatch.setattr(module, name, never)

    monkeypatch.setattr(shared_run, "share", workers)
    run_explain(config)
    assert (tmp_path / "e.csv").read_bytes() == (tmp_path / "alone.csv").read_bytes()


def test_the_command_edits_genes(planted_files, planted_model, tmp_path, capsys):
    kind = "edit.kind='scale=0.2'"
    run_explain(
        composed(
            planted_files, tmp_path / "e.tsv", "method=edit", "target=head:cell_type:a", kind, "edit.genes=[GENE0,GENE30]", "max_cells=20"
        )
    )
    table = pd.read_csv(tmp_path / "e.tsv", sep="\t").set_index("gene")
    expected = planted_model.perturb_in_silico(planted_files[1], ["GENE0", "GENE30"], "scale=0.2", readout="head:cell_type:a", max_cells=20)
    np.testing.assert_allclose(table["log_odds"], expected.set_index("gene").loc[table.index, "log_odds"], rtol=1e-4)
    assert "change of head:cell_type:a: 2 edits of 20 cells" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"method=edit it must end in \.csv"):
        run_explain(composed(planted_files, tmp_path / "e.h5ad", "method=edit"))

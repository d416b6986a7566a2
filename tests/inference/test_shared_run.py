"""How commands keep their parts beside their outputs."""

from omegaconf import OmegaConf

from bmfm.inference.shared_run import SharedRun


def test_commands_with_further_outputs_of_their_own_share_no_shards(tmp_path, monkeypatch):
    """Or the one that ends first would put the other's shards together, and not write its outputs."""
    monkeypatch.setattr("bmfm.inference.shared_run.work_plan", lambda *_: {})
    shared, folders = SharedRun(OmegaConf.create({"launcher": None}), None, print), []
    for names in (["a.vcf"], ["a.vcf", "b.tsv"], ["a.vcf", "c.tsv"]):
        outputs = [tmp_path / name for name in names]
        shared(outputs, [], lambda ledger: folders.append(ledger.folder), lambda _, files: [file.touch() for file in files])
    assert len(set(folders)) == 3 and sorted(p.name for p in tmp_path.iterdir()) == ["a.vcf", "b.tsv", "c.tsv"]

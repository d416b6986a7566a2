"""Tasks and suites compose and validate; downloads are whole, resumed and checked. No network beyond this machine."""

import gzip
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pandas as pd
import pytest
from omegaconf import ListConfig, OmegaConf

from bmfm.cli import compose, config_folder
from bmfm.evaluation import checksums, task_files
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.fetch import fetch
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.task_files import read_examples, read_suite, read_task, suite_names, task_names
from bmfm.evaluation.task_spec import DataFile, TaskSpec
from bmfm.files import ASSETS

PUBLISHED_SIZES = {"gue": 28, "genomic_benchmarks": 8, "nt": 18, "sceval": 12}
CONTENT = b"sequence,label\n" + b"ACGT,1\n" * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def all_tasks():
    return {name: read_task(name, ["checkpoint=x", "data_root=/data"]) for name in task_names()}


def test_every_task_composes(all_tasks):
    for name, task in all_tasks.items():
        config = task.config
        assert not OmegaConf.missing_keys(config), name
        OmegaConf.to_container(config.data, resolve=True)
        assert config.objectives and task.title and task.citation
        read = (str(task.shipped_paths[0]), *map(str, task.examples.values()))  # the genome of variants is a file of its own
        assert all(any(f.path in r for r in read) or f.path.startswith(str(task.shipped_paths[0])[len("/data/") :]) for f in task.files), (
            name
        )
        if task.length and task.omics == "dna":
            assert config.data.max_tokens == task.length + (3 if config.data.second else 2), name
        for f in task.files:
            assert f.sha256 is None or len(f.sha256) == 64
            assert f.url is None or f.url.startswith(("https://", "hf://datasets/"))
        assert all(0 < p.score < 1 for p in task.published)


def test_what_ships_is_there(all_tasks):
    assert [c.config.data.path for n, c in all_tasks.items() if n.startswith("demo/pbmc")] == [str(ASSETS / "rna" / "pbmc3k.h5ad")] * 2
    assert all(not c.files for n, c in all_tasks.items() if n.startswith("demo/"))


@pytest.mark.parametrize("name", suite_names())
def test_suites_list_tasks(name):
    suite = read_suite(name)
    assert suite.tasks and len(set(suite.tasks)) == len(suite.tasks)
    assert len(suite.tasks) == PUBLISHED_SIZES.get(name, len(suite.tasks))


def test_every_task_is_in_a_suite():
    assert set(task_names()) == {task for name in suite_names() for task in read_suite(name).tasks}


def test_a_task_overrides_the_objective_of_the_recipe(all_tasks):
    assert all_tasks["mpra/k562"].config.objectives.label._target_.endswith(".Regression")
    assert set(all_tasks["deepstarr/s2"].config.objectives) == {"dev", "hk"}
    chosen = compose("train", ["+recipe=dna_finetune", "+task=gue/tf_0", "objective=[regression]", "checkpoint=x"])
    assert chosen.objectives.label._target_.endswith(".Regression")


@pytest.fixture
def own_conf(tmp_path, monkeypatch):
    """Writes a task into a folder of its own; the configuration is that of gue/tf_0 with another task."""
    valid = {
        "name": "mine/a",
        "title": "t",
        "omics": "dna",
        "protocol": "labels",
        "metric": "mcc",
        "length": 3,
        "split": "s",
        "citation": "c",
    }

    def write(_objectives=None, **changed):
        task = {k: v for k, v in (valid | changed).items() if v != "absent"}
        path = tmp_path / "task" / "mine" / "a.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        OmegaConf.save({"task": task}, path)
        monkeypatch.setattr(task_files, "compose", lambda *_: OmegaConf.create({"task": task, "objectives": _objectives}))

    for module in ("bmfm.cli", "bmfm.evaluation.task_files"):
        monkeypatch.setattr(f"{module}.config_folders", lambda: [config_folder(), tmp_path])
    write()
    return write


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"metric": "f2"}, r"a.yaml: task.metric='f2' is not of task.protocol='labels'; choose accuracy, .*mcc"),
        ({"omics": "protein"}, "task.omics='protein'; choose dna or rna"),
        ({"title": "absent"}, "task.title is missing"),
        ({"colour": "red"}, "task.colour is no key of a TaskSpec; it has name, title"),
        ({"name": "mine/b"}, "task.name='mine/b' must be the file's, 'mine/a'"),
        ({"files": [{"path": "a.csv"}]}, "a.csv has no url; say in task.how"),
        ({"files": [{"path": "a.csv", "size": 3}]}, r"task.files\[0\].size is no key of a DataFile"),
        ({"protocol": "integration", "metric": "avg_bio"}, "task.label is missing"),
        ({"protocol": "integration"}, "task.metric='mcc' is not of task.protocol='integration'; choose nmi"),
    ],
)
def test_faulty_tasks_are_refused(own_conf, changed, message):
    own_conf(**changed)
    with pytest.raises(ValueError, match=message):
        read_task("mine/a")


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ("variant", "a.yaml: task.protocol='variant' is unknown; choose integration, labels, perturbation, variants, or give a _target_"),
        ({"_target_": "bmfm.evaluation.task_spec.DataFile", "path": "x"}, "makes a DataFile, which is no Protocol"),
        ({"_target_": "nowhere.Protocol"}, "nowhere.Protocol cannot be imported"),
    ],
)
def test_what_is_no_protocol_is_refused(own_conf, protocol, message):
    own_conf(protocol=protocol)
    with pytest.raises(ValueError, match=message):
        read_task("mine/a")


def test_a_protocol_is_named_by_file_or_class(own_conf):
    integration = {"_target_": "bmfm.evaluation.protocols.integration.CellIntegration", "share": 0.5}
    own_conf(protocol=integration, metric="nmi", label="type")
    assert protocol_of(read_task("mine/a")).share == 0.5
    own_conf(protocol="integration", metric="nmi", label="type")
    assert protocol_of(read_task("mine/a")).share == 0.9


def test_another_kind_of_data_is_a_file_and_a_task_may_name_its_own(own_conf, tmp_path):
    (tmp_path / "omics").mkdir()
    reader = {"_target_": "mine.PeptideExamples"}
    OmegaConf.save({"recipe": "peptide_finetune", "examples": reader}, tmp_path / "omics" / "peptide.yaml")
    own_conf(omics="peptide")
    task = read_task("mine/a")
    assert (task.recipe, task.examples) == ("peptide_finetune", reader)
    own_conf(omics="peptide", recipe="another", examples={"_target_": "mine.Others"})
    task = read_task("mine/a")
    assert (task.recipe, task.examples) == ("another", {"_target_": "mine.Others"})
    own_conf(omics="lipid")
    with pytest.raises(ValueError, match=r"task.omics='lipid'; choose dna or peptide or rna"):
        read_task("mine/a")


def test_labels_are_not_predicted_from_other_objectives(own_conf):
    own_conf(_objectives={"mlm": {"_target_": "bmfm.objectives.mlm.MaskedLanguageModel"}})
    with pytest.raises(ValueError, match=r"a.yaml: objectives.mlm learns no labels"):
        read_task("mine/a")


def test_unknown_names_have_near_matches():
    with pytest.raises(ValueError, match=r"no task is named 'gue/tf_9'; did you mean gue/tf_"):
        read_task("gue/tf_9")
    with pytest.raises(ValueError, match="no suite is named 'geu'; did you mean gue"):
        read_suite("geu")


def _task(*files: DataFile, **more) -> TaskSpec:
    return TaskSpec("a/b", "t", "dna", "labels", "mcc", 4, "s", "c", files=files, **more)


def test_checksums_are_of_decompressed_content_and_remembered(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_bytes(CONTENT)
    with gzip.open(tmp_path / "b.csv.gz", "wb") as out:
        out.write(CONTENT)
    assert content_hash([tmp_path / "a.csv"]) == content_hash([tmp_path / "b.csv.gz"]) == SHA256
    both = content_hash([tmp_path / "a.csv", tmp_path / "b.csv.gz"])
    monkeypatch.setattr(checksums, "sha256", lambda file: pytest.fail("hashed again"))
    assert content_hash([tmp_path]) == both != SHA256
    task = _task(DataFile("b.csv", sha256=SHA256))
    assert task.missing_files(tmp_path) == []
    task.verify(tmp_path)
    with pytest.raises(ValueError, match=rf"b.csv.gz: SHA-256 of its content is {SHA256}, expected 00"):
        _task(DataFile("b.csv", sha256="00")).verify(tmp_path)


def test_missing_files_are_named_with_the_remedy(tmp_path):
    task = _task(DataFile("x/train.csv"), how="Ask the authors.")
    assert task.missing_files(tmp_path) == [tmp_path / "x" / "train.csv"]
    with pytest.raises(FileNotFoundError, match=r"a/b needs .*x/train.csv, which do not exist; Ask the authors"):
        task.verify(tmp_path)
    with pytest.raises(ValueError, match=r"x/train.csv cannot be downloaded; Ask the authors"):
        fetch(task, tmp_path)


class Server(BaseHTTPRequestHandler):
    """One file, in ranges; the first answer can break off."""

    content, version, stop_after, asked = CONTENT, '"1"', None, None

    def do_GET(self):
        wanted = self.headers.get("Range")
        begin = int(wanted[6:-1]) if wanted and self.headers.get("If-Range") == self.version else 0
        type(self).asked = wanted
        if begin >= len(self.content):
            self.send_error(416)
            return
        body = self.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", self.version)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.stop_after])
        type(self).stop_after = None

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    handler = type("Fresh", (Server,), {})
    with HTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        handler.url = f"http://127.0.0.1:{running.server_port}/train.csv"
        yield handler
        running.shutdown()
        thread.join()


def test_fetch_goes_on_where_it_stopped(tmp_path, server):
    task = _task(DataFile("a/train.csv", server.url, SHA256))
    server.stop_after = 1000
    with pytest.raises(OSError, match=r"1,000 of 35,015 bytes came; run again to go on"):
        fetch(task, tmp_path)
    assert task.missing_files(tmp_path)
    assert fetch(task, tmp_path) == [tmp_path / "a" / "train.csv"]
    assert server.asked == "bytes=1000-"
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["train.csv"]
    assert (tmp_path / "a" / "train.csv").read_bytes() == CONTENT
    assert fetch(task, tmp_path) == []


def test_fetch_begins_again_where_the_file_has_changed(tmp_path, server):
    task = _task(DataFile("train.csv", server.url, SHA256))
    server.content, server.stop_after = b"old" * 20000, 1000
    with pytest.raises(OSError, match="run again"):
        fetch(task, tmp_path)
    server.content, server.version = CONTENT, '"2"'
    fetch(task, tmp_path)
    assert (tmp_path / "train.csv").read_bytes() == CONTENT


def test_fetch_refuses_other_content(tmp_path, server):
    with pytest.raises(ValueError, match=rf"SHA-256 of its content is {SHA256}, expected 00; the file is kept as .*train.csv.rejected"):
        fetch(_task(DataFile("train.csv", server.url, "00")), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train.csv.rejected"]


def test_first_checksum_is_recorded_and_checked_from_then_on(tmp_path, server):
    task = _task(DataFile("train.csv", server.url))
    fetch(task, tmp_path)
    assert checksums.recorded(tmp_path) == {"train.csv": SHA256}
    task.verify(tmp_path)
    (tmp_path / "train.csv").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"expected {SHA256}"):
        task.verify(tmp_path)
    (tmp_path / "train.csv").unlink()
    server.content = b"changed at the source\n"
    with pytest.raises(ValueError, match=f"expected {SHA256}"):
        fetch(task, tmp_path)


def test_server_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match=r"cannot be downloaded: .*; run again to go on"):
        fetch(_task(DataFile("train.csv", "http://127.0.0.1:9/train.csv")), tmp_path)


def test_hub_addresses(tmp_path, monkeypatch):
    import huggingface_hub

    asked = {}
    (tmp_path / "cached").write_bytes(CONTENT)

    def download(repo, path, **more):
        asked.update(repo=repo, path=path, **more)
        return str(tmp_path / "cached")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    url = "hf://datasets/owner/name@refs%2Fconvert%2Fparquet/default/train/0000.parquet"
    fetch(_task(DataFile("x.parquet", url, SHA256)), tmp_path)
    assert asked == {
        "repo": "owner/name",
        "path": "default/train/0000.parquet",
        "repo_type": "dataset",
        "revision": "refs/convert/parquet",
    }
    assert (tmp_path / "x.parquet").read_bytes() == CONTENT


def _columns(config, n, length, rng):
    """Columns of n random examples as a task's configuration asks for them."""
    halves = 2 if config.data.get("second") else 1
    texts = [["".join(rng.choice(list("ACGT"), length // halves)) for _ in range(n)] for _ in range(halves)]
    columns: dict = dict(zip((config.data.sequence, config.data.get("second")), texts, strict=False))
    for objective in config.objectives.values():
        kind = objective._target_.rsplit(".", 1)[1]
        if kind == "MultiLabel" and objective.columns:
            columns |= {objective.columns.replace(r"\d+", str(i)): rng.integers(0, 2, n) for i in range(3)}
        elif kind == "TokenClassification":
            columns[objective.column] = ["".join(rng.choice(["0", "1"], len(t))) for t in texts[0]]
        elif kind == "Regression" and config.data.get("derived"):
            columns |= {name: rng.integers(1, 9, n) for name in re.findall(r"[A-Za-z_]\w*", config.data.derived[objective.column])}
        elif kind == "Regression":
            columns[objective.column] = rng.normal(size=n)
        else:
            columns[objective.column] = rng.choice(["0", "1"], n) if kind == "Classification" else ["x|y", "y"] * (n // 2)
    if config.data.split.by == "column":
        columns[config.data.split.column] = (["training"] * n)[: n - 8] + ["validation"] * 4 + ["test"] * 4
    return columns


@pytest.mark.parametrize("name", [n for n in task_names() if not n.startswith(("demo/", "variants/", "perturbation/"))])
def test_every_task_reads_files_of_its_format(tmp_path, name):
    """Small files with the columns that a task names are read, split and labelled, and nothing of the longest input is cut."""
    rng = np.random.default_rng(0)
    task = read_task(name, ["checkpoint=x", f"data_root={tmp_path}"])
    for f in task.files:
        file = tmp_path / f.path
        file.parent.mkdir(parents=True, exist_ok=True)
        if task.omics == "dna":
            table = pd.DataFrame(_columns(task.config, 24, task.length or 60, rng))
            table.to_parquet(file) if file.suffix == ".parquet" else table.to_csv(file, index=False)
        else:
            _cells(task, rng).write_h5ad(file)
    examples = read_examples(task, tmp_path)
    assert set(examples.parts) == {"train", "validation", "test"} and "truncated" not in examples.data.notes
    for name, kind in examples.kinds.items():
        truth = examples.labels("test", name)
        assert len(truth) == len(examples.parts["test"]) and (kind.classes or kind.simple_as == "regression")


@pytest.mark.parametrize("name", [n for n in task_names() if n.startswith("perturbation/")])
def test_every_screen_is_read_in_its_format(tmp_path, name):
    """Small files with the columns that a task of perturbations names are read, split, and something is asked of each."""
    rng = np.random.default_rng(0)
    task = read_task(name, ["checkpoint=x", f"data_root={tmp_path}"])
    file = tmp_path / task.files[0].path
    file.parent.mkdir(parents=True, exist_ok=True)
    _screen(task.config.data, rng).write_h5ad(file)
    examples = read_examples(task, tmp_path)
    assert set(examples.parts) == {"train", "validation", "test"} and len(examples.asked) and len(examples.trained)
    assert not set(examples.asked.index) & set(examples.trained.index)
    assert examples.unit == ("counts" if task.config.data.source.expects == "counts" else "lognorm")


def _screen(data, rng):
    """Cells of real genes after perturbations, and controls, in four contexts, 40 of each condition."""
    import anndata

    source, genes = data.source, anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad", backed="r").var_names[:80]
    singles = genes[:12].tolist()
    control = (list(source.control) or ["control"])[0]
    if data.split.by == "column":
        named = [*data.split.test, *data.split.validation, *{t for c in data.split.test for t in c.split("+")}]
    elif source.condition == "drugname_drugconc":
        named = [f"[('{d}', {dose}, 'uM')]" for d in singles for dose in (0.05, 5.0)]
    elif data.split.by == "cell_type":
        named = ["stim"] if source.kind == "drug" else singles
    else:
        named = [f"{g}+ctrl" for g in singles] if data.split.get("legacy_rng") else singles
        named += [f"{a}+{b}" for a in singles for b in singles[:6] if a > b] if data.split.by == "gears_simulation" else []
    rows = [(condition, context) for context in "wxyz" for condition in [control, *named] for _ in range(31)]
    obs = pd.DataFrame(rows, columns=[source.condition, "place"], index=[f"c{i}" for i in range(len(rows))])
    for column in [source.context] if isinstance(source.context, str) else source.context or []:
        obs[column] = obs["place"]
    if source.kind not in ("crispri", "crispra", "drug"):
        obs[source.kind] = "CRISPRi"
    if source.dose:
        obs[source.dose] = np.where(obs[source.condition] == control, 0.0, 10.0)
    for column in filter(None, [source.batch, *(source.keep or {})]):
        obs[column] = source.keep[column] if column in (source.keep or {}) else "b"
    counts = rng.poisson(1.0, (len(obs), len(genes))).astype(np.float32) + 1
    values = counts if source.expects == "counts" else np.log1p(counts)
    return anndata.AnnData(values, obs, pd.DataFrame({"gene_name": genes}, index=genes))


def _cells(task, rng):
    """A few cells of real genes with every .obs column that a task names."""
    import anndata

    config, n = task.config, 60
    genes = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad", backed="r").var_names[:80]
    counts = rng.poisson(1.0, (n, len(genes))).astype(np.float32) + 1
    named = {o.column for o in config.objectives.values()} | {task.label, task.batch} - {None}
    obs = {column: rng.choice(["a", "b"], n) for column in named}
    split = config.data.split
    if split.by in ("column", "group"):
        given = [split.get(p) for p in ("train", "validation", "test")]
        values = [v for g in given if isinstance(g, ListConfig) for v in g]
        groups = [*"abcdefghij"] if split.by == "group" else values or ["train", "validation", "test"]
        obs[split.column] = np.resize(groups, n)
    adata = anndata.AnnData(counts, pd.DataFrame(obs, index=[f"c{i}" for i in range(n)]))
    adata.var_names = genes
    key = str(config.data.counts)
    if key.startswith("layers/"):
        adata.layers[key.removeprefix("layers/")] = counts
    return adata

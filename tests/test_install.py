"""The package as it is installed, seen from a folder that is not the repository."""

import configparser
import subprocess
import sys
from pathlib import Path

from bmfm.storage.folders import CELLS, WRITTEN

ROOT = Path(__file__).resolve().parent.parent


def test_a_folder_named_like_the_package_does_not_hide_it(tmp_path):
    (tmp_path / "bmfm" / "docs").mkdir(parents=True)  # as where the repository was cloned: a folder `bmfm` without __init__.py
    code = "from bmfm import __version__; from bmfm.cli import compose; print(compose('train', ['+recipe=dna_snp']).name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "dna_snp", done.stderr[-1000:]


def test_what_ships_is_installed():
    """Every file of the package that is no code, and those of models that ship, match a pattern of setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = [part.strip() for part in setup["options.package_data"]["bmfm"].split(",")]
    assets = [p.relative_to(ROOT / "bmfm") for p in (ROOT / "bmfm" / "assets").rglob("*") if p.is_file()]
    model = [Path("assets", "models", "bmfm-x", name) for name in (*WRITTEN, *CELLS)]
    files = [file for file in [*assets, *model] if "__pycache__" not in file.parts]
    assert len(files) > 20 and [f for f in files if not any(len(f.parts) == len(Path(p).parts) and f.match(p) for p in patterns)] == []

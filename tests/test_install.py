"""The package as it is installed, seen from a folder that is not the repository."""

import subprocess
import sys


def test_a_folder_named_like_the_package_does_not_hide_it(tmp_path):
    (tmp_path / "bmfm" / "docs").mkdir(parents=True)  # as where the repository was cloned: a folder `bmfm` without __init__.py
    code = "from bmfm import __version__; from bmfm.cli import compose; print(compose('train', ['+recipe=dna_snp']).name)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "dna_snp", done.stderr[-1000:]

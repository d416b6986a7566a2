"""Run the tutorials again and compare what they print with what is stored: ``python -m docs.check_tutorials [NAME ...] [--write]``.

Needs ``pip install -e '.[docs]'``. Each notebook runs in a folder of its own. Words have to be the same, numbers within a tolerance, since
kernels of other machines round differently; pictures have to be there. Notebooks with training in them (cells tagged ``train``, and whatever comes after) are compared
with a wider one. ``--write`` stores the new outputs in place of the old ones.
"""

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).parent / "tutorials"
NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")
CLOSE, AFTER_TRAINING = 0.02, 0.35
LONGEST = 90
"""Seconds that a tutorial may take on two cores."""


def text_of(cell: dict) -> str:
    """What a cell prints and shows as text, without what differs from run to run."""
    parts = []
    for output in cell.get("outputs", []):
        if output["output_type"] == "stream":
            parts.append(output["text"])
        elif "text/plain" in output.get("data", {}) and "image/png" not in output["data"]:
            parts.append(output["data"]["text/plain"])
    text = re.sub(r"0x[0-9a-f]+|\d+\.\d+ min|/tmp/\S+", "", "".join(parts))
    return re.sub(r"\s+|[─━│┌┐└┘├┤┬┴┼]+", " ", text).strip()


def differences(stored: str, printed: str, tolerance: float) -> list[str]:
    """Where two texts differ: words, or numbers by more than a share of the larger one (or 0.05)."""
    if NUMBER.sub("#", stored) != NUMBER.sub("#", printed):
        return [f"stored: {stored[:300]}", f"now:    {printed[:300]}"]
    numbers = zip(NUMBER.findall(stored), NUMBER.findall(printed), strict=True)
    values = [(float(a.replace(",", "")), float(b.replace(",", ""))) for a, b in numbers]
    return [f"{a} is now {b}" for a, b in values if abs(a - b) > max(0.05, tolerance * max(abs(a), abs(b)))]


def run(notebook):
    """Run a notebook in a new folder, and return it with its outputs."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
    return notebook


def clean(notebook):
    """Outputs without warnings of libraries, progress and what says nothing to a reader."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
        cell.execution_count = None
        for output in cell.outputs:
            if "text" in output:
                output.text = re.sub(r"\x1b\[[0-9;]*m|\r(?=\n)", "", output.text.replace(f"{FOLDER.parents[1]}/", ""))
            if output.output_type == "execute_result":
                output.execution_count = None
            if "image/png" in output.get("data", {}):
                output.data.pop("text/plain", None)
    return notebook


def check(path: Path, write: bool) -> list[str]:
    """Run one tutorial; what differs from its stored outputs."""
    import nbformat

    stored = nbformat.read(path, 4)
    start = time.time()
    now = clean(run(nbformat.read(path, 4)))
    seconds = time.time() - start
    print(f"{path.stem}: {seconds:.0f} s{f', more than {LONGEST}: is the machine busy?' if seconds > LONGEST else ''}", flush=True)
    found, tolerance = [], CLOSE
    for number, (before, after) in enumerate(zip(stored.cells, now.cells, strict=True)):
        if "train" in before.metadata.get("tags", []):
            tolerance = AFTER_TRAINING
        pictures = [sum("image/png" in o.get("data", {}) for o in cell.get("outputs", [])) for cell in (before, after)]
        if pictures[0] != pictures[1]:
            found.append(f"cell {number}: {pictures[0]} pictures are stored, {pictures[1]} were drawn")
        found += [f"cell {number}: {line}" for line in differences(text_of(before), text_of(after), tolerance)]
    if write:
        nbformat.write(now, path)
    return found


def main() -> int:
    """Run the command; status 1 where outputs differ."""
    parser = argparse.ArgumentParser(prog="python -m docs.check_tutorials", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="tutorials; all where none is named")
    parser.add_argument("--write", action="store_true", help="store the new outputs")
    arguments = parser.parse_args()
    paths = [FOLDER / f"{name}.ipynb" for name in arguments.names] or sorted(FOLDER.glob("*.ipynb"))
    status = 0
    for path in paths:
        if found := check(path, arguments.write):
            print(*(f"  {line}" for line in found), sep="\n")
            status = 0 if arguments.write else 1
    return status


if __name__ == "__main__":
    sys.exit(main())

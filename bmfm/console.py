"""The command ``bmfm``: ``bmfm train ...`` is ``python -m bmfm.train ...``, and so on.

A command is a module at the top of the package that can be run (it ends with ``if __name__ == "__main__"``). Its name is that of
the module, and the help shows the first sentence of its docstring, so that a new entry point is listed as soon as it is there.
Nothing is imported to list them: the files are parsed.
"""

import ast
import runpy
import sys
from difflib import get_close_matches
from pathlib import Path

USAGE = "usage: bmfm COMMAND [ARGUMENTS]"


def commands(folder: Path = Path(__file__).parent) -> dict[str, str]:
    """Names of the commands, sorted, and what each does: the first sentence of its module's docstring."""
    return {
        path.stem: _first_sentence(source)
        for path in sorted(folder.glob("*.py"))
        if not path.stem.startswith("_") and '\nif __name__ == "__main__":' in (source := path.read_text(encoding="utf-8"))
    }


def _first_sentence(source: str) -> str:
    docstring = ast.get_docstring(ast.parse(source)) or ""
    sentence, _, _ = docstring.split("\n")[0].partition(": ``")
    return sentence.rstrip(".") + "."


def help_text() -> str:
    """What ``bmfm --help`` prints."""
    listed = commands()
    width = max(map(len, listed))
    lines = [f"  {name:{width}}  {sentence}" for name, sentence in listed.items()]
    return "\n".join(
        [
            "Foundation models of genomic DNA with its variants, and of single-cell RNA.",
            "",
            USAGE,
            "",
            "commands:",
            *lines,
            "",
            "`bmfm COMMAND --help` explains one of them; `python -m bmfm.COMMAND` is the same. `bmfm --version` names the version.",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    """Run a command as ``python -m bmfm.COMMAND`` does; status 2 where there is no such command."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("--help", "-h", "help"):
        print(help_text())
        return
    if command in ("--version", "-V"):
        from bmfm import __version__

        print(f"bmfm {__version__}")
        return
    available = commands()
    if command not in available:
        near = get_close_matches(command, available, n=1, cutoff=0.5)
        hint = f"did you mean `bmfm {near[0]}`?" if near else f"choose from {', '.join(available)}"
        print(f"bmfm: there is no command {command!r}; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = rest
    # With `alter_sys`, the module is `__main__`: processes that it starts for other devices are `python -m bmfm.COMMAND`, too.
    runpy.run_module(f"bmfm.{command}", run_name="__main__", alter_sys=True)

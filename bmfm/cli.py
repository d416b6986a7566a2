"""Composing configuration: the same for every entry point, with errors that say what was meant."""

import json
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).parent


def config_folder() -> Path:
    """``conf/``: inside an installed package, linked there in a checkout."""
    return PACKAGE / "conf"


def register_resolvers() -> None:
    """``${asset:path}``: a file that ships with the package."""
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("asset", lambda path: str(PACKAGE / "assets" / path), replace=True)


def compose(config_name: str, overrides: list[str]):
    """Compose a configuration as the command line would."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    if GlobalHydra.instance().is_initialized():  # inside an entry point that composes more
        return hydra_compose(config_name, overrides)
    with initialize_config_dir(str(config_folder().resolve()), version_base="1.3"):
        return hydra_compose(config_name, overrides)


def override(key: str, value: object) -> str:
    """A setting as an override, quoted so that any path may be a value."""
    return f"{key}={json.dumps(value, default=str)}"


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """One or two lines on a configuration error, with near matches for what does not exist."""
    text = str(error).strip().split("\n")[0]
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", str(error)):
        group, name = match[1], match[2]
        options = sorted(p.stem for p in (config_folder() / group).glob("*.yaml"))
        near = get_close_matches(name, options, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(options)}"
        return f"no {group} is named {name!r}; {hint}"
    if missing := re.search(r"Missing mandatory value: (\w+)", str(error)):
        options = sorted(p.stem for p in (config_folder() / missing[1]).glob("*.yaml"))
        return f"+{missing[1]}=NAME is needed; choose from {', '.join(options)}" if options else f"{missing[1]}=... is needed"
    if group := re.search(r"Could not override '(suite|task|recipe)'", str(error)):
        return f"write +{group[1]}=NAME, with a plus: it is added to what there is"
    key = re.search(r"Key '([^']+)' is not in struct", str(error)) or re.search(r"Could not override '([^']+)'", str(error))
    if key:
        from omegaconf import OmegaConf

        wanted = key[1]
        asked = next((o.lstrip("+~").split("=")[0] for o in overrides if o.lstrip("+~").split("=")[0].endswith(wanted)), wanted)
        recipe = [o for o in overrides if "recipe=" in o]
        known = _keys(OmegaConf.to_container(compose(config_name, recipe)))
        near = get_close_matches(asked, known, n=3, cutoff=0.6) or [k for k in known if k.split(".")[-1] == asked.split(".")[-1]][:3]
        return f"{asked!r} is no setting of this recipe" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return text


def _keys(node, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return ([prefix] if prefix else []) + [k for name, child in node.items() for k in _keys(child, f"{prefix}.{name}" if prefix else name)]


def check_files(config) -> None:
    """Fail at once if a source file is missing, before anything heavy is imported."""
    from bmfm.files import require_file

    data = config.get("data", {})
    for key, what in (("fasta", "FASTA file"), ("variants", "variant file"), ("path", "file"), ("orthologs", "table of orthologs")):
        given = data.get(key)
        for path in [given] if isinstance(given, str) else given or []:
            if not any(c in path for c in "*?["):
                require_file(path, f"data.{key}: {what}", folder=key == "path")


def main(task: Callable, config_name: str) -> None:
    """Run an entry point under Hydra; mistakes in the command end with one clear line and status 2."""
    import hydra
    from omegaconf import OmegaConf

    overrides = [a for a in sys.argv[1:] if "=" in a and not a.startswith("-")]
    asks_only = any(a.startswith("-") for a in sys.argv[1:])
    if not asks_only:
        try:
            config = compose(config_name, overrides)
            if missing := sorted(OmegaConf.missing_keys(config)):
                print(f"bmfm: this recipe needs {', '.join(f'{key}=...' for key in missing)}", file=sys.stderr)
                sys.exit(2)
            check_files(config)
        except Exception as error:
            if type(error).__module__.split(".")[0] not in ("hydra", "omegaconf") and not isinstance(error, FileNotFoundError):
                raise
            said = str(error) if isinstance(error, FileNotFoundError) else explain(error, config_name, overrides)
            print(f"bmfm: {said}", file=sys.stderr)
            sys.exit(2)
    register_resolvers()
    hydra.main(config_path=str(config_folder().resolve()), config_name=config_name, version_base="1.3")(_plainly(task))()


def _plainly(task: Callable) -> Callable:
    """The task, whose own complaints about input end with one line; HYDRA_FULL_ERROR=1 shows where they came from."""

    def run(config):
        try:
            return task(config)
        except Exception as caught:
            error = caught
            while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
                error = error.__cause__  # Hydra's own words hold a whole configuration
            if not isinstance(error, ValueError | KeyError | FileNotFoundError | ImportError):
                raise
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            ours = frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)
            if not ours or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"bmfm: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
            sys.exit(2)

    return run

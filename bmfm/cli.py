"""Composing configuration, in the same way for every entry point, with errors that say what was meant.

Configuration is looked for in the package and in one folder of the user: ``--config-dir FOLDER`` of every entry point, or
``$BMFM_CONFIG_DIR``. A file that lies there as its like does in ``conf/`` (``task/mine/x.yaml``, ``suite/x.yaml``,
``recipe/x.yaml``) is chosen in the same way, and Python modules in the folder can be named by a ``_target_``.
"""

import os
import re
import sys
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bmfm.targets import check_type, check_types

PACKAGE = Path(__file__).parent
CONFIG_DIR = "BMFM_CONFIG_DIR"


def config_folder() -> Path:
    """``conf/``: inside an installed package, linked there in a checkout."""
    return PACKAGE / "conf"


def config_folders() -> list[Path]:
    """All folders that configuration is looked for in: that of the package, and that of the user where there is one.

    The latter is named by an environment variable, so that the processes that a benchmark starts, here or on a cluster, know it.
    """
    user_folder = os.environ.get(CONFIG_DIR)
    return [config_folder(), *([Path(user_folder)] if user_folder else [])]


def use_config_folder(folder: str | Path) -> None:
    """Look for configuration, and for Python modules that it names, also in a folder of the user.

    Raises
    ------
    FileNotFoundError
        Where there is no such folder.
    ValueError
        Where a file there has the name of one that ships, which would be read in its place.
    """
    user_folder = Path(folder).expanduser().absolute()
    if not user_folder.is_dir():
        raise FileNotFoundError(f"--config-dir: {user_folder} is no folder")
    shipped = (p.relative_to(config_folder()) for pattern in ("*.yaml", "*/*.yaml", "*/*/*.yaml") for p in config_folder().glob(pattern))
    if hidden := [p for p in shipped if (user_folder / p).is_file()]:
        raise ValueError(
            f"--config-dir: {user_folder / hidden[0]} has the name of a file that ships with the package, which would be read in its place; rename it"
        )
    os.environ[CONFIG_DIR] = str(user_folder)


def options(group: str) -> list[str]:
    """Names to choose from in a group, sorted: those that ship, and those in the folder of the user."""
    return sorted({p.stem for folder in config_folders() for p in (folder / group).glob("*.yaml") if not p.name.startswith("_")})


def config_file(group: str, name: str) -> Path | None:
    """The YAML of a choice, or None."""
    files = (folder / group / f"{name}.yaml" for folder in config_folders())
    return next((f for f in files if f.is_file()), None)


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
    overrides = recipe_first(overrides)
    shipped, *user_folders = config_folders()
    # the first entry is where Python was started, which nobody named: a folder that the user named is an entry of its own
    sys.path += [str(folder) for folder in user_folders if str(folder) not in sys.path[1:]]
    if GlobalHydra.instance().is_initialized():  # inside an entry point that composes more
        return hydra_compose(config_name, overrides)
    search = [override("hydra.searchpath", [f"file://{folder}" for folder in user_folders])] if user_folders else []
    with initialize_config_dir(str(shipped.resolve()), version_base="1.3"):
        return hydra_compose(config_name, [*overrides, *search])


def recipe_first(overrides: list[str]) -> list[str]:
    """The same with the recipe before a task, whose settings it would replace otherwise; Hydra lets what is added last win."""
    return sorted(overrides, key=lambda override: not override.startswith("+recipe="))


def literal(value: Any) -> Any:
    """A value that OmegaConf reads back as it is: in texts, also those inside of lists and mappings, ``${`` is escaped."""
    if isinstance(value, Mapping):
        return {k: literal(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [literal(v) for v in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


_OF_INPUT = (ValueError, KeyError, FileNotFoundError, ImportError)
"""Errors that say what is wrong with settings or files."""


def instantiate(config: Any, **arguments: Any) -> Any:
    """Make what a configuration with ``_target_`` describes, as `hydra.utils.instantiate` does, whatever signs its texts hold.

    Hydra resolves a configuration and then reads it, so that an escaped ``${`` would be taken for a reference the second time;
    here it is not.

    Parameters
    ----------
    arguments
        Further arguments of the target.

    Raises
    ------
    ValueError
        Where the target cannot be imported, or does not take such settings; names it, and the setting where that is known.
    """
    from hydra._internal.utils import _locate
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate as hydra_instantiate
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
    where = config._get_full_key(None) if OmegaConf.is_config(config) else ""
    try:
        check_types(plain, _locate, where)
        return hydra_instantiate(literal(literal(plain)), **arguments)
    except (InstantiationException, TypeError, AttributeError, ImportError) as error:
        if "Error locating target" not in str(error) and not isinstance(error, ImportError):
            root: BaseException = error
            while isinstance(root, InstantiationException) and root.__cause__ is not None:
                root = root.__cause__
            if isinstance(root, _OF_INPUT) and root is not error:
                raise
            said = " ".join(str(error).split())
            raise ValueError(f"{where or 'settings'} cannot be made with these settings: {said[:400]}") from error
        target = re.search(r"target '([^']+)'", str(error))
        raise ValueError(
            f"_target_: {target[1] if target else '?'} cannot be imported: {' '.join(str(error).split())[:300]}; "
            "a module of your own lies in the folder of --config-dir, is installed, or is on PYTHONPATH"
        ) from error


def override(key: str, value: Any) -> str:
    """A setting as an override that gives back the same value, whatever characters are in a text or path.

    Parameters
    ----------
    key
        As ``data.path``, or with ``+`` or ``++`` before it.
    value
        None, truth value, number, text, path, or lists and mappings of these; anything else as its text.
    """
    return f"{key}={_grammar(value)}"


def _grammar(value: Any) -> str:
    """A value in the grammar of Hydra's overrides: there a backslash means something before a quote alone."""
    if value is None:
        return "null"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, Mapping):
        if invalid := [k for k in value if not re.fullmatch(r"[A-Za-z_][\w-]*", str(k), re.ASCII)]:
            raise ValueError(f"{invalid[0]!r} cannot be a key of a setting; keys are plain words")
        return "{" + ", ".join(f"{k}: {_grammar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_grammar, value)) + "]"
    return _quoted(literal(str(value)))


def _quoted(text: str) -> str:
    escaped = re.sub(r'(\\*)("|\Z)', lambda m: 2 * m[1] + ("\\" + m[2] if m[2] else ""), text)
    return f'"{escaped}"'


def readable(argument: str) -> str:
    """An argument of the command line, its value in quotes where Hydra's grammar cannot read it, as that of ``data.path=/a/b=c/é.csv``.

    What opens a list, a mapping or a quotation stays as it is: there a mistake is more likely than a name. ``${...}`` still
    refers to another setting.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    key, equals, value = argument.partition("=")
    if not equals or not re.fullmatch(r"\+{0,2}[\w.@/:-]+", key, re.ASCII) or value[:1] in ("[", "{", "'", '"', "("):
        return argument
    try:
        OverridesParser.create().parse_override(argument)
    except HydraException:
        return f"{key}={_quoted(value)}"
    return argument


def explain(error: Exception, config_name: str, overrides: list[str]) -> str:
    """Explain a configuration error in one or two lines, with near matches for what does not exist."""
    text = str(error).strip().split("\n")[0]
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", str(error)):
        group, name = match[1], match[2]
        choices = options(group)
        near = get_close_matches(name, choices, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(choices)}"
        return f"no {group} is named {name!r}; {hint}"
    if missing := re.search(r"Missing mandatory value: (\w+)", str(error)):
        choices = options(missing[1])
        return f"+{missing[1]}=NAME is needed; choose from {', '.join(choices)}" if choices else f"{missing[1]}=... is needed"
    if group := re.search(r"Could not override '(suite|task|recipe)'", str(error)):
        return f"write +{group[1]}=NAME, with a plus: it is added to what there is"
    if "OverrideParse" in type(error).__name__:
        return f'{" ".join(str(error).split())[:300]}; put texts with signs in quotes: \'data.path=["/a/é=1.csv", "/b.csv"]\''
    if sweep := re.search(r"(?:Ambiguous value for argument|Sweep parameters) '([^=']+)", text):
        return f"{text}: a comma separates the values of several runs (-m); where it is part of a name, quote it: '{sweep[1]}=\"...\"'"
    if "Interpolation" in type(error).__name__:
        return f"{text}; ${{...}} refers to another setting: where it is part of a name, write \\${{...}} in single quotes"
    key = re.search(r"Key '([^']+)' is not in struct", str(error)) or re.search(r"Could not override '([^']+)'", str(error))
    if key:
        from omegaconf import OmegaConf

        keys = [o.lstrip("+~").split("=")[0] for o in overrides]
        typed = next((k for k in keys if k.endswith(key[1])), key[1])
        recipe = [o for o in overrides if "recipe=" in o]
        settings = _keys(OmegaConf.to_container(compose(config_name, recipe)))
        same_end = [k for k in settings if k.split(".")[-1] == typed.split(".")[-1]][:3]
        near = get_close_matches(typed, settings, n=3, cutoff=0.6) or same_end
        return f"{typed!r} is no setting of this recipe" + (f"; did you mean {' or '.join(near)}?" if near else "")
    return text


def _keys(node, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return ([prefix] if prefix else []) + [k for name, child in node.items() for k in _keys(child, f"{prefix}.{name}" if prefix else name)]


_OF_ALL = {"seed": int, "checkpoint": str | None} | dict.fromkeys(
    ("resume", "overwrite", "compile", "remote_code", "test", "logistic_regression"), bool
)


def check_settings(config) -> None:
    """Raise a ValueError that names a setting of the whole run, which is of no class, whose value is of another kind."""
    for name, kind in _OF_ALL.items():
        if name in config:
            check_type(config[name], kind, name)
    if config.get("trainer", {}).get("val_check_interval", 1) == 0:
        raise ValueError(
            "trainer.val_check_interval=0: steps between two validations are expected; trainer.limit_val_batches=0 is without any"
        )


def check_files(config) -> None:
    """Fail at once if a source file is missing, before anything heavy is imported."""
    from bmfm.files import require_file

    if "://" in str(config.get("run_dir") or ""):
        raise ValueError(
            f"run_dir={config.run_dir}: a run's folder cannot lie in an object store: train into a folder of this machine, and copy it "
            "afterwards, as by aws s3 sync; checkpoint and data may be URLs"
        )
    data = config.get("data", {})
    for key, what in (("fasta", "FASTA file"), ("variants", "variant file"), ("path", "file"), ("orthologs", "table of orthologs")):
        setting = data.get(key)
        paths = [setting] if isinstance(setting, str) else setting.values() if isinstance(setting, Mapping) else setting or []
        for path in filter(None, paths):
            if "://" not in path and not any(c in path for c in "*?["):
                require_file(path, f"data.{key}: {what}", folder=key == "path")


def main(task: Callable, config_name: str) -> None:
    """Run an entry point under Hydra; mistakes in the command end with one clear line and status 2.

    The status is the highest of all runs (of ``-m`` there are several): a run that fails does not keep the others from being tried.
    """
    import hydra
    from hydra._internal.utils import get_args_parser

    register_resolvers()
    command_line = [readable(a) for a in sys.argv[1:]]
    if os.environ.get("LOCAL_RANK"):  # a process that Lightning started: it repeats the folder, in quotes that not every name survives
        command_line = [a for a in command_line if not a.startswith('hydra.run.dir="')]
    arguments = get_args_parser().parse_intermixed_args(command_line)
    given = [a for a in command_line if a not in arguments.overrides]  # Hydra wants its options first
    sys.argv[1:] = given + recipe_first(arguments.overrides)
    try:
        if arguments.config_dir or os.environ.get(CONFIG_DIR):
            use_config_folder(arguments.config_dir or os.environ[CONFIG_DIR])
            if not arguments.config_dir:
                sys.argv[1:1] = ["--config-dir", os.environ[CONFIG_DIR]]
        if not (
            arguments.help or arguments.hydra_help or arguments.cfg or arguments.info or arguments.shell_completion or arguments.config_name
        ):
            _check(config_name, arguments.overrides, arguments.multirun)
    except (FileNotFoundError, ValueError) as error:
        print(f"bmfm: {error}", file=sys.stderr)
        sys.exit(2)
    statuses: list[int] = []
    hydra.main(config_path=str(config_folder().resolve()), config_name=config_name, version_base="1.3")(
        _with_plain_errors(task, statuses)
    )()
    if any(statuses):
        sys.exit(max(statuses))


def exit_status(work: Callable[[], int | None]) -> int:
    """The status of a command without a configuration: 2, with one line on stderr, where its input is at fault."""
    try:
        return work() or 0
    except (ValueError, OSError) as error:
        print(f"bmfm: {error}", file=sys.stderr)
        return 2


def _check(config_name: str, overrides: list[str], several: bool) -> None:
    """Compose the configuration (of several runs the first) and look for what is missing, before anything heavy is imported.

    Raises
    ------
    ValueError, FileNotFoundError
        With one line on what is wrong.
    """
    from omegaconf import OmegaConf

    try:
        config = compose(config_name, _first_run(overrides) if several else overrides)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise ValueError(f"this recipe needs {', '.join(f'{key}=...' for key in missing)}")
        check_settings(config)
        check_files(config)
    except Exception as error:
        if type(error).__module__.split(".")[0] == "yaml":
            raise ValueError(f"a file of the configuration is no YAML: {' '.join(str(error).split())}") from error
        if type(error).__module__.split(".")[0] not in ("hydra", "omegaconf"):
            raise
        raise ValueError(explain(error, config_name, overrides)) from error


def _first_run(overrides: list[str]) -> list[str]:
    """The overrides of the first of several runs."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(overrides)
    first = (f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else o.input_line for o in parsed)
    return [str(line) for line in first]


def _with_plain_errors(task: Callable, statuses: list[int]) -> Callable:
    """The task, with errors about its input shown in one line; HYDRA_FULL_ERROR=1 shows where they came from.

    The status that a run ended with is added to `statuses`.
    """

    def run(config):
        try:
            return task(config)
        except SystemExit as stop:
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
            statuses.append(2 if isinstance(stop.code, str) else stop.code or 0)
            return None
        except Exception as caught:
            error = caught
            while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
                error = error.__cause__  # Hydra's own words hold a whole configuration
            is_misuse = type(error).__name__ == "MisconfigurationException"  # Lightning's word for a setting that is wrong
            if not is_misuse and not isinstance(error, ValueError | KeyError | FileNotFoundError | ImportError):
                raise
            frame = error.__traceback__
            while frame is not None and frame.tb_next is not None:
                frame = frame.tb_next
            ours = is_misuse or (frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(PACKAGE))
            if not ours or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            print(f"bmfm: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
            statuses.append(2)

    return run

"""A model folder, model that ships, or Hub id, to a `Predictor`."""

from pathlib import Path

from bmfm.checkpoints.adapters import ADAPTER, adapter_base, read_adapter
from bmfm.checkpoints.load import allow_remote_code, check_vocabulary, read_model, read_tokenizer
from bmfm.inference.predictor import Predictor
from bmfm.places import fetch, is_url
from bmfm.storage.folders import find_folder


def load(
    name: str | Path,
    attention: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    remote_code: bool = False,
    adapter: str | Path | None = None,
    kind: type[Predictor] = Predictor,
) -> Predictor:
    """A model with its tokenizer.

    Parameters
    ----------
    name
        Model folder, name of a model that ships with the package (as ``bmfm-rna-mini``), or Hub id, looked for in this order; or the
        ``adapter`` folder of a run, which names its model; or the URL of a model folder in an object store (``s3://bucket/model``). Weights that are stored in half precision are read as float32.
    attention
        Implementation of attention, see `BmfmModel.use_attention`.
    device
        ``cpu``, ``cuda``, ...; None takes a GPU if there is one.
    remote_code
        Run Python code that comes with a model of others; without it such a model is refused.
    adapter
        The ``adapter`` folder of a run that trained this model by LoRA; it is merged into the model.
    kind
        The class of what is returned: `Predictor`, or one made from it.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and the key that is absent, damaged or does not fit.
    """
    if is_url(name):
        name = fetch(str(name), "checkpoint")
    if adapter is None and (Path(name).expanduser() / ADAPTER[0]).is_file():
        name, adapter = adapter_base(Path(name).expanduser()), name
    folder = find_folder(name, revision)
    with allow_remote_code(remote_code):
        if adapter is None:
            model, tokenizer = read_model(folder), read_tokenizer(folder)
        else:
            model, tokenizer = read_adapter(Path(adapter).expanduser(), folder)
    check_vocabulary(model, tokenizer, folder)
    model.use_attention(attention)
    return kind(model, tokenizer, device, folder if adapter is None else None)

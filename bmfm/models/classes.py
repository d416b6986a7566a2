"""Classes that the configuration of a model folder names."""

from pathlib import Path

from bmfm.models.backbones.base import Backbone
from bmfm.models.config import BmfmConfig
from bmfm.models.embeddings import FieldEncoder
from bmfm.storage.remote_code import remote_code_is_allowed
from bmfm.targets import find_class


def backbone_of(config: BmfmConfig, folder: Path) -> type[Backbone]:
    """The class of the backbone that a folder's configuration names, once all classes that it names were looked at: none of them comes from the
    folder itself.

    Raises
    ------
    ValueError
        Naming the file and the key.
    """
    file, outside = folder / "config.json", None if remote_code_is_allowed() else folder
    backbone: type[Backbone] = find_class(config.backbone.get("_target_"), Backbone, f"{file}: backbone._target_", outside)
    for name, settings in ({} if backbone.own_embeddings else config.fields).items():
        find_class(settings.get("_target_"), FieldEncoder, f"{file}: fields.{name}._target_", outside)
    return backbone

"""A model of others, made on the spot."""

from tests.inference.conftest import bert_folder

__all__ = ["bert_folder"]

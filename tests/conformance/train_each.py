"""Run recipes one after the other, as one of several processes: ``torchrun --nproc-per-node 2 train_each.py OVERRIDES.json``."""

import json
import sys
from pathlib import Path

from bmfm.cli import compose
from bmfm.train import train

if __name__ == "__main__":
    for overrides in json.loads(Path(sys.argv[1]).read_text()).values():
        train(compose("train", overrides))

"""How well a trained `rna_wced` model predicts genes it did not see, beside two profiles, on the same cells and genes.

Run: ``python benchmarks/wced_quality.py runs/rna_wced``. The mean profile of training cells is the baseline; the mean
profile of the cell's true type knows more than the model does (labels were never shown to it). Validation cells.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf

from bmfm.checkpoints.load import read_model
from bmfm.objectives.statistics import row_pearson
from bmfm.training.run import assemble

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("run", type=Path, help="folder of a run of rna_wced")
folder = parser.parse_args().run / "model"
data, objectives, _ = assemble(OmegaConf.create(json.loads((folder / "recipe.json").read_text())))
model, decoder = read_model(folder), objectives.tasks["wced"]
numbers, types = data.numbers["train"], data.column("cell_type").astype(str)
counts = data.cells.take(numbers)
values = data.tokenizer.full_profile(counts)
profiles = np.zeros((len(numbers), len(data.tokenizer)), np.float32)
profiles[np.repeat(np.arange(len(numbers)), np.diff(counts.offsets)), counts.ids] = values
mean = torch.from_numpy(profiles.mean(0))
of_type = {t: torch.from_numpy(profiles[types[numbers] == t].mean(0)) for t in set(types[numbers])}

results: dict[str, list[torch.Tensor]] = {}
at = 0
with torch.inference_mode():
    for batch in data.val_dataloader():
        batch = data.prepare_batch(batch)
        outputs, truth, masks = decoder._outputs(model, batch, model.encode(batch))
        unseen, n = masks["non_input"], len(truth)
        typed = torch.stack([of_type[types[c]] for c in data.numbers["validation"][at : at + n]])
        at += n
        for name, predicted in (
            ("model", outputs["mse"]),
            ("mean profile", mean.expand_as(truth)),
            ("mean profile of the true type", typed),
        ):
            results.setdefault(f"{name}: Pearson", []).append(row_pearson(predicted, truth, unseen))
            results.setdefault(f"{name}: Pearson of the difference from the mean profile", []).append(
                row_pearson(predicted - mean, truth - mean, unseen)
            )
            results.setdefault(f"{name}: mean squared error", []).append(((predicted - truth) ** 2 * unseen).sum(1) / unseen.sum(1))
for name, parts in results.items():
    each = torch.cat(parts)
    each = each[each.isfinite()]
    if len(each):
        half = 1.96 * each.std() / len(each) ** 0.5
        print(f"{name} {each.mean():.4f} ± {half:.4f} over {len(each)} cells")

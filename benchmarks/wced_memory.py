"""Peak memory of training steps: the encoder with a loss on its [CLS] states alone, and with whole-cell decoding of every gene.

Each is measured in a process of its own, as peak resident memory beyond what was there before the model. Batch 16,
length 512, 19,283 genes.
"""

import resource
import subprocess
import sys


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(kind: str, layers: int, size: int) -> None:
    import torch
    from hydra.utils import instantiate

    from bmfm.cli import compose
    from bmfm.objectives.multitask import weighted_mean
    from bmfm.training.run import assemble

    shape = [
        f"model.hidden_size={size}",
        f"model.intermediate_size={4 * size}",
        f"model.num_hidden_layers={layers}",
        f"model.num_attention_heads={size // 32}",
    ]
    config = compose("train", ["+recipe=rna_wced", "data.max_tokens=512", "data.batch_size=16", *shape])
    data, objectives, model = assemble(config)
    if kind == "encoder":
        model.heads = torch.nn.Identity()
    batches = iter(data.training_batches())
    batch = data.prepare_batch(next(batches))
    before = peak()
    optimizer = instantiate(config.optimizer, model)
    for _ in range(4):
        hidden = model.encode(batch)
        loss = hidden[:, 0].square().mean() if kind == "encoder" else weighted_mean(objectives.losses(model, batch, hidden))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(peak() - before)


def main() -> None:
    for layers, size in ((2, 128), (12, 384)):
        megabytes = {}
        for kind in ("encoder", "wced"):
            out = subprocess.run(
                [sys.executable, __file__, kind, str(layers), str(size)], check=True, capture_output=True, text=True
            ).stdout
            megabytes[kind] = float(out.split()[-1])
        print(
            f"{layers} layers x {size}: encoder {megabytes['encoder']:,.0f} MB, with whole-cell decoding {megabytes['wced']:,.0f} MB, ratio {megabytes['wced'] / megabytes['encoder']:.2f} (limit 1.3)"
        )


if __name__ == "__main__":
    measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])) if len(sys.argv) > 1 else main()

"""An export as the command line asks for it."""

from typing import Any

from bmfm.exporting.export import export
from bmfm.inference.loading import load


def run(config: Any) -> None:
    """Export the model of a composed configuration."""
    predictor = load(config.checkpoint, device="cpu", revision=config.revision)
    try:
        record = export(predictor, config.output, config.format, config.precision, config.examples, config.overwrite)
    except (FileExistsError, ImportError) as error:
        raise SystemExit(f"bmfm: {error}") from None
    parity = record["parity"]
    agreement = "".join(f"; {head} agrees in {share:.1%}" for head, share in parity["top1_agreement"].items())
    print(f"parity on {parity['n_tokens']:,} tokens: least cosine {parity['cosine']:.7f}{agreement}")
    for name, difference in parity["max_abs_diff"].items():
        print(f"  {name}: largest difference {difference:.2e}")
    print(f"written to {config.output}")

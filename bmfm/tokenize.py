"""Train or build a tokenizer of DNA: ``python -m bmfm.tokenize +recipe=dna_tokenizer output=my_tokenizer``."""

from bmfm.cli import instantiate, main


def tokenize(config) -> None:
    """Make the tokenizer of a composed recipe from training windows and save it as a folder."""
    import numpy as np

    from bmfm.genome.alphabet import decode
    from bmfm.tokenizers import dna

    if config.kind == "single_base":
        tokenizer = dna.single_base()
    elif config.kind == "kmer":
        tokenizer = dna.kmer(config.k)
    elif config.kind == "bpe":
        data = instantiate(config.data, _convert_="all")
        sampler, n = data.sampler("train"), 0
        n = config.n_windows or len(sampler)

        def texts():
            for first in range(0, n, 256):
                encoded = data.represent(sampler.draw(0, np.arange(first, min(first + 256, n))))
                yield from (decode(encoded[b]) for b in range(len(encoded)))

        name = type(data.represent).__name__.lower()
        tokenizer = dna.train_bpe(texts(), config.vocab_size, dna.symbols_for(name))
    else:
        raise SystemExit(f"bmfm: kind={config.kind} is unknown; choose bpe, kmer or single_base")
    tokenizer.save_pretrained(config.output)
    is_fast = tokenizer.table is not None
    print(f"{len(tokenizer):,} tokens written to {config.output}" + ("" if is_fast else " (encoded by the tokenizers library)"))


if __name__ == "__main__":
    main(tokenize, "tokenize")

"""Overrides of small runs: one for every objective and every kind of data that ``conf/`` and the extension list."""

from tests.conformance.cases import choices, small

QUIET = ["data.batch_size=8", "data.num_workers=0", "data.split.validation=0.2", "data.split.test=0.1"]
CELLS = ["~representation", "data=rna", "data.path={cells}", "data.max_tokens=48", "data.statistics_cells=64", "tokenizer=cells", "tokenizer.genes=from_data", "model=bert", "values=mlp_special", *small("model", "bert"), *QUIET]  # fmt: skip
TABLE = ["~representation", "data=table", "data.path={table}", "data.max_tokens=40", "tokenizer=dna_demo", "model=modernbert", *small("model", "modernbert"), *QUIET]  # fmt: skip

LABELS = {
    "label": [*TABLE, "objective=[label]"],
    "balanced_label": [*TABLE, "objective=[balanced_label]"],
    "multilabel": [*TABLE, "objective=[multilabel]", "objectives.label.column=tags"],
    "regression": [*TABLE, "objective=[regression]", "objectives.label.column=number"],
    "token_label": [*TABLE, "objective=[token_label]", "objectives.label.column=bases", "data.text=[bases]"],
    "mlm": [*TABLE, "objective=[mlm]", "objectives.mlm.masking.random_token_prob=0.05"],
}
MORE = {
    "cell_ontology": ["objectives.cell_type.ontology={ontology}"],
    "cls_labels": ["tokenizer.n_cls=5"],
    "genes": [
        "objectives.genes.masking.adaptive=true",
        "objectives.genes.masking.mask_prob=0.4",
        "objectives.genes.masking.random_token_prob=0.02",
    ],
    "values": ["objectives.values.masking.adaptive=true", "+objectives.values.losses.is_zero=0.5", "tokenizer.zeros=interleaved"],
    "wced": ["tokenizer.sequence_dropout=0.3"],
    "counts": [
        "objectives.counts.targets=[all,non_input]",
        "objectives.counts.likelihood=negative_binomial",
        "tokenizer.read_depth.mode=split_aware",
        "tokenizer.order=distinctive",
    ],
}
PAIRS = ["+recipe=perturbation", "data.source.path={pairs}", "data.batch_size=8", "model.hidden_size=16", "model.intermediate_size=24"]
SCREEN = [
    "+recipe=rna_perturbation", "data=perturbation", "data.source.path={pairs}", "data.source.condition=perturbation", "data.max_tokens=32", "checkpoint=null",
    "tokenizer=cells", "tokenizer.genes=from_data", "tokenizer.summary=true", "model=set", "values=gene_scaled", *small("model", "set"), *QUIET,
]  # fmt: skip
EXTENSION = {"response": [*PAIRS, "objective=[response]", "~objectives.label"], "count": [*PAIRS, "objective=[count]"]}

SCREEN_WITH_ALL_LOSSES = [
    *SCREEN,
    "objectives.perturbation.losses.wmse=0.5",
    "objectives.perturbation.losses.is_zero=0.5",
    "data.source.gene_weights=true",
]

OBJECTIVES = {
    name: LABELS.get(name)
    or EXTENSION.get(name)
    or (SCREEN_WITH_ALL_LOSSES if name == "perturbation" else None)
    or [*CELLS, f"objective=[{name}]", *MORE.get(name, [])]
    for name in choices("objective")
}
"""{objective: overrides}; ``{cells}``, ``{table}`` and ``{ontology}`` stand for the files of the fixture `files`."""

DATA = {
    "dna": [
        "+recipe=dna_snp", "data.batch_size=8", "data.windows.min_length=60", "data.windows.max_length=200", "data.held_out_windows.coverage=0.02",
    ],
    "rna": [*CELLS, "objective=[wced]", "data.permute_genes=0.4", "tokenizer.zeros=interleaved", "tokenizer.read_depth.mode=downsample", "tokenizer.summary=true"],
    "pbmc3k": ["+recipe=rna_wced", "data.path={cells}", "tokenizer.genes=from_data", "data.batch_size=8", "data.split.validation=0.1", "data.max_tokens=64", "data.packing=true", "data.statistics_cells=64", *small("model", "bert")],
    "table": [*TABLE, "objective=[mlm,label]", "data.packing=true", "data.second=second"],
    "perturbation": SCREEN,
    "demo_perturbation": [*SCREEN, "data=demo_perturbation", "data.source.path={pairs}", "data.source.condition=perturbation", "data.source.context=null", "data.source.kind=crispra", "data.source.expects=counts", "data.batch_size=8"],
    "response_pairs": [*PAIRS, "objective=[response,count]"],
    "source": [
        "~representation", "data=source", "data.source={{_target_: tests.data.paired.PairedSequences}}", "tokenizer=dna_demo", "objective=[mlm]", *QUIET,
    ],
}  # fmt: skip
"""{data: overrides}. The census is what a query over the network gives: files of cells, as ``rna``."""

"""What a model is trained for: labels from a batch, heads where they are needed, losses with names.

`objective.Objective` is the contract; `multitask.Objectives` holds several under their names. `masking` hides tokens and values, for
`mlm` (hidden tokens) and `values` (hidden values); `wced` decodes whole cells; `labels` are label tasks, one file a kind of label.
"""

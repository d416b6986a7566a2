"""Special tokens: the same ids in every vocabulary of both omics (BMFM-DNA, arXiv 2507.05265; BMFM-RNA, arXiv 2506.14861)."""

SPECIAL_TOKENS = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
UNK, SEP, PAD, CLS, MASK = range(5)
IGNORE = -100
"""An integer label that says "no label"; NaN says it where labels are real numbers."""

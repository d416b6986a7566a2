"""Label tasks, one file a kind of label: one head on one state of an example, or of each token.

A kind of your own is a subclass of `label.Label`, anywhere that Python finds it, whose ``kind`` says how predictions and metrics
are made (`bmfm.label_kinds`), and a YAML that names it by ``_target_``.
"""

from bmfm.objectives.labels.classification import Classification
from bmfm.objectives.labels.hierarchical import Hierarchical
from bmfm.objectives.labels.label import Label
from bmfm.objectives.labels.multilabel import MultiLabel
from bmfm.objectives.labels.regression import Regression
from bmfm.objectives.labels.tokens import TokenClassification

__all__ = ["Classification", "Hierarchical", "Label", "MultiLabel", "Regression", "TokenClassification"]

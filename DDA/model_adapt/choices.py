"""The names that settings of an evaluation may have; no torch.

Command lines read them for their help, which must not wait for torch.
"""

RULES = (
    "first",
    "second",
    "entropy",
    "confidence",
    "var",
    "sum",
    "entropy_sum",
    "confidence_sum",
)
# rules whose parameters are fitted on known degradations, and the names of these
FITTED_RULES = {
    "weighted_sum": ("weight", "temperatures"),
    "gate": ("weight", "temperatures", "threshold"),
}
FUSE_RULES = ("entropy_fuse", "confidence_fuse", "var_fuse")  # they blend the two images
SCORES = ("logits", "probabilities")
METRICS = ("accuracy", "precision", "recall", "f1_score", "support", "calibration", "flips", "mCE")

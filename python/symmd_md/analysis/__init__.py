"""What a trained network gets wrong, in numbers and pictures."""

from symmd_md.analysis.errors import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]

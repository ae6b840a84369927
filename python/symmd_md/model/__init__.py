"""The network in plain torch and e3nn: what is trained, and the oracle of every compiled kernel."""

from symmd_md.model.batch import AtomBatch
from symmd_md.model.config import ModelConfig, ModelStatistics
from symmd_md.model.network import Prediction, SymmdNetwork

__all__ = ["AtomBatch", "ModelConfig", "ModelStatistics", "Prediction", "SymmdNetwork"]

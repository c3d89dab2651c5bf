"""PersonaNet, the small networks of the benchmarks, and the LightningModule that trains them.

None of them knows about privacy: they are ordinary modules, without layers that couple the examples of a
batch.
"""

from __future__ import annotations

from lightning_privacy.models.char_gru import CharGRU
from lightning_privacy.models.classifier import Classifier
from lightning_privacy.models.mlp import MLP
from lightning_privacy.models.papernot_cnn import PapernotCNN
from lightning_privacy.models.persona_net import PersonaNet

__all__ = ["MLP", "CharGRU", "Classifier", "PapernotCNN", "PersonaNet"]

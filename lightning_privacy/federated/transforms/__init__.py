"""Steps of a round's pipeline: bounding and compressing deltas.

Example:
    >>> from lightning_privacy.federated.transforms import TopK
    >>> TopK(fraction=0.01)
    TopK(fraction=0.01, error_feedback=True)
"""

from __future__ import annotations

from lightning_privacy.federated.transforms.bf16 import BFloat16
from lightning_privacy.federated.transforms.int8 import Int8
from lightning_privacy.federated.transforms.norm_bounding import NormBounding
from lightning_privacy.federated.transforms.top_k import TopK
from lightning_privacy.federated.transforms.transform import DeltaTransform

__all__ = ["BFloat16", "DeltaTransform", "Int8", "NormBounding", "TopK"]

"""Where callbacks find the group of each example of a batch; see :mod:`lightning_privacy.fairness.batch_groups`."""

from __future__ import annotations

from lightning_privacy.fairness.batch_groups import Groups, column_of, groups_of

__all__ = ["Groups", "column_of", "groups_of"]

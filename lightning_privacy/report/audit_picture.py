"""The pictures of an audit side by side, such as what an attacker reconstructed beside what there was.

Example:
    >>> from lightning_privacy.audit import AuditImage, AuditResult
    >>> images = [AuditImage("original", [[0.0, 1.0], [1.0, 0.0]]), AuditImage("found", [[0.2, 0.9], [0.8, 0.1]])]
    >>> result = AuditResult("inversion", "Inversion", "measured", "An attacker sees the image.", images=images)
    >>> [axes.get_title() for axes in audit_picture(result).axes]
    ['original', 'found']
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_privacy.audit.audit_file import AuditResult
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.report._figures import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["audit_picture"]

_INCHES = 1.5


def audit_picture(result: AuditResult, path: str | Path | None = None, *, columns: int = 5) -> Figure:
    """Draw the images of an audit, row by row.

    Args:
        result: Of an audit that has images.
        path: Where to save the picture, in the format of its ending; None: nowhere.
        columns: Images in a row, at most.

    Returns:
        The figure; it belongs to no window.

    Raises:
        ConfigurationError: matplotlib is missing, or the audit has no images.
    """
    if not result.images:
        raise ConfigurationError(f"the audit {result.title!r} has no images to draw")
    if columns < 1:
        raise ConfigurationError(f"columns must be a whole number >= 1, got {columns!r}")
    columns = min(columns, len(result.images))
    rows = math.ceil(len(result.images) / columns)
    figure, axes = new_figure(_INCHES * columns, (_INCHES + 0.3) * rows, rows, columns)
    for each, image in zip(axes, result.images, strict=False):
        each.imshow(image.rows, cmap="gray", vmin=0.0, vmax=1.0)
        each.set_title(image.label, fontsize="small", wrap=True)
        each.set_axis_off()
    for unused in axes[len(result.images) :]:
        unused.remove()
    save(figure, path)
    return figure

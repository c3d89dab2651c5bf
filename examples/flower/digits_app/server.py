"""What runs at the server; the model is in model.ckpt of the folder the SuperLink was started in."""

from __future__ import annotations

from digits_app.task import Classifier, strategy
from lightning_privacy.strategies.flower import server_app

app = server_app(Classifier, strategy(), num_clients=2, checkpoint="model.ckpt")

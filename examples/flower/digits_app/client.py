"""What runs at each silo."""

from __future__ import annotations

from digits_app.task import Classifier, Digits, strategy
from lightning_privacy.strategies.flower import client_app

app = client_app(Classifier, lambda context: Digits(context.node_config["partition-id"]), strategy())

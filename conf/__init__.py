"""The Hydra groups, installed as ``lightning_privacy.conf`` and reached with ``pkg://lightning_privacy.conf``."""

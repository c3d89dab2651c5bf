"""The same from a config, with Lightning's own command line: python cli.py fit --config private.yaml."""

from __future__ import annotations

from data import Digits
from model import DigitsNet
from pytorch_lightning.cli import LightningCLI

if __name__ == "__main__":
    LightningCLI(DigitsNet, Digits)

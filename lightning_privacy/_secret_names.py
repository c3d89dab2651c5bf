"""Names of settings whose values are nobody's business.

Example:
    >>> is_secret("hf_token"), is_secret("apiKey"), is_secret("max_tokens")
    (True, True, False)
    >>> in_secret(("security", "key", "passphrase")), in_secret(("api_keys", "0")), in_secret(("key", "path"))
    (True, True, False)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["LEFT_OUT", "in_secret", "is_secret"]

LEFT_OUT = "(left out)"
_CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_SECRET = re.compile(
    r"(^|_)("
    r"keys?|token|pass_?phrases?|passwords?|passwor[dt]|passwörter|passwoerter|kennw(o|ö|oe)rt(er)?|passwd|passcode|pwd|pw|"
    r"secrets?|credentials?|creds?|auth|authorization|bearer|cookies?|jwt|dsn|connection_string|"
    r"(api|auth|access|bearer|refresh|session|hf)_?tokens?|(api|access|secret|private|pass)keys?"
    r")(_(value|hex|bytes|material|base64|b64))?(_?\d+)?$",
)
# What is made, and where a secret is to be found.
_NO_SECRETS = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "path", "name", "salt", "expires"})


def is_secret(name: str) -> bool:
    """Whether a value of this name is none to show.

    Args:
        name: Of one setting, without those around it.
    """
    return _SECRET.search(_CAPITAL.sub("_", name).lower().replace("-", "_").replace(" ", "_")) is not None


def in_secret(names: Sequence[str]) -> bool:
    """Whether a value at this place is none to show: it, or something around it, is called as secrets are.

    Args:
        names: Of the settings around it, from the outermost on, and its own.
    """
    return any(map(is_secret, names)) and names[-1] not in _NO_SECRETS

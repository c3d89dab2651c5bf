"""A key that is made once and found again."""

from __future__ import annotations

import stat
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.security import Key
from lightning_privacy.security.kept_key import kept_key


def test_one_key_for_all_who_ask_and_for_the_owner_alone(tmp_path, monkeypatch):
    path = tmp_path / "keys" / "store.key"
    generate = Key.generate

    def slowly(**settings: object) -> Key:
        time.sleep(0.1)  # so that all have seen that there is no file, if they may look at the same time
        return generate(**settings)

    monkeypatch.setattr(Key, "generate", slowly)
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: kept_key(path), range(16)))
    assert len({key.secret for key in keys}) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kept_key(path) == Key.from_file(path)


def test_a_key_that_is_there_is_kept(tmp_path):
    made = Key.generate(key_id="mine")
    made.save(tmp_path / "key")
    assert kept_key(tmp_path / "key").key_id == "mine"
    assert kept_key(tmp_path / "key") == made


def test_a_file_that_others_can_read_or_that_holds_no_key_is_refused_and_stays(tmp_path):
    (tmp_path / "open").write_bytes(bytes(32))
    (tmp_path / "open").chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        kept_key(tmp_path / "open")
    (tmp_path / "text").write_text("no key")
    (tmp_path / "text").chmod(0o600)
    with pytest.raises(ConfigurationError, match="text"):
        kept_key(tmp_path / "text")
    assert (tmp_path / "text").read_text() == "no key"

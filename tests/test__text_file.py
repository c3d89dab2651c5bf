"""A file of text is written in full or not at all."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_privacy._text_file import write_text


def test_what_cannot_be_encoded_becomes_a_question_mark(tmp_path):
    write_text(tmp_path / "a", "cut \ud800 off")
    assert (tmp_path / "a").read_text() == "cut ? off"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    write_text(tmp_path / "a", "old")
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_text(tmp_path / "folder", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder"]


def test_processes_may_write_the_same_file_at_a_time(tmp_path):
    texts = [letter * 100_000 for letter in "abcd"]

    def write(text):
        for _ in range(50):
            write_text(tmp_path / "a", text)

    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(write, texts))
    assert (tmp_path / "a").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_who_may_read_it_is_for_the_user_to_say(tmp_path):
    before = os.umask(0o077)
    try:
        write_text(tmp_path / "a", "figures of private data")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_lines_end_as_they_were_given(tmp_path):
    write_text(tmp_path / "a", "one\r\ntwo\n")
    assert (tmp_path / "a").read_bytes() == b"one\r\ntwo\n"

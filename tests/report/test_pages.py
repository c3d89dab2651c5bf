"""Pages escape what they are given; a file is written in full or not at all."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from lightning_privacy.report.pages import render_page, write_text


def test_a_title_is_text():
    page = render_page("base.html.j2", title="</title><script>alert(1)</script>")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2


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

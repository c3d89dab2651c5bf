"""Pages escape what they are given; a file is written in full or not at all."""

from __future__ import annotations

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

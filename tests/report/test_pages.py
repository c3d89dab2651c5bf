"""Pages escape what they are given."""

from __future__ import annotations

from lightning_privacy.report.pages import render_page


def test_a_title_is_text():
    page = render_page("base.html.j2", title="</title><script>alert(1)</script>")
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 2

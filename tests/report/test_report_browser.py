"""The report in a browser: on a phone and on a wide screen, light and dark, on paper; pictures in the test's output."""

from __future__ import annotations

import pytest

from lightning_privacy.report.make_report import make_report


@pytest.fixture(scope="module")
def page(whole_run, tmp_path_factory):
    return make_report(whole_run, into=tmp_path_factory.mktemp("browser")).page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_report_in_a_browser(browser, page, tmp_path, width, dark):
    seen = browser.look(page, width=width, dark=dark)
    (tmp_path / f"report_{width}_{'dark' if dark else 'light'}.png").write_bytes(seen.screenshot)
    assert seen.screenshot.startswith(b"\x89PNG")
    assert len(seen.screenshot) > 20_000
    assert seen.errors == []
    assert [address for address in seen.requests if not address.startswith("data:")] == [page.as_uri()]
    look = seen.look
    assert look["title"] == "Report of whole"
    assert look["texts"] > 200
    assert look["width"] <= look["window"] == width
    assert look["faint"] == []
    assert look["unnamed"] == look["scripts"] == 0
    assert look["smallest"] >= 9  # pixels of the smallest text of a chart
    assert set(look["links"]) <= set(look["ids"])


def test_the_report_on_paper(browser, page, tmp_path):
    seen = browser.look(page, width=800, printed=True)
    assert seen.look["faint"] == []
    paper = browser.pdf(page)
    (tmp_path / "report.pdf").write_bytes(paper)
    assert paper.startswith(b"%PDF")
    assert paper.count(b"/Type /Page\n") + paper.count(b"/Type /Page ") + paper.count(b"/Type/Page/") <= 15


def test_the_browser_sees_what_it_is_asked_to_see(browser, tmp_path):
    """Every check above fails on a page that is as bad as it can be."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<title>bad</title><body style='background:#fff'><p style='color:#bbb'>faint</p><div style='width:900px'>wide"
        "</div><svg></svg><img src='http://192.0.2.1/x.png'><script>console.error('no'); missing()</script>"
    )
    seen = browser.look(bad, width=400)
    assert len(seen.errors) >= 2
    assert "http://192.0.2.1/x.png" in seen.requests
    assert seen.look["width"] > 400
    assert seen.look["faint"]
    assert seen.look["unnamed"] == 2
    assert seen.look["scripts"] == 1

"""The page: complete, one file, and nothing in a run's folder can become markup in it."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import jsonschema
import pytest

from lightning_privacy.audit.audit_file import AuditCurve, AuditImage, AuditResult
from lightning_privacy.report.html_report import html_report
from lightning_privacy.report.make_report import make_report, report_schema
from lightning_privacy.report.report_data import report_data
from lightning_privacy.report.run_record import RunRecord

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}\x00\u202e</style></svg>"
# Elements of HTML that have no end.
VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Page(HTMLParser):
    """Elements with their attributes, the text, and whether everything that is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _report(folder):
    return html_report(report_data(RunRecord.read(folder)))


@pytest.fixture(scope="module")
def data(whole_run):
    return report_data(RunRecord.read(whole_run))


@pytest.fixture(scope="module")
def page(data):
    return _Page(html_report(data))


def test_every_section_of_a_whole_run_is_there(page):
    titles = {attributes.get("id") for tag, attributes in page.elements if tag == "h2"}
    assert titles == {"guarantee", "caveats", "ledger", "audits", "results", "fairness", "federated", "preparation",
                      "reproduce"}  # fmt: skip
    assert page.open == []


@pytest.mark.parametrize(
    "part",
    [
        "Trained with differential privacy", "null record", "Logged while training: train/loss", "class counts",
        "Canaries in one run", "At least 0.4 was shown", "90.0%", "98.0% without privacy", "female", "too few to judge",
        "deduplicate", "1,200", "age: 33", "lightning-privacy callbacks.privacy.epsilon=3", "worst client", "P31",
        "training data, no noise", "exact counts", "exact figures of the test set", "what was sent",
    ],
)  # fmt: skip
def test_what_the_run_said_is_said(page, part):
    told = " ".join(attributes.get("aria-label") or attributes.get("alt") or "" for _, attributes in page.elements)
    assert part in page.text + told


def test_the_page_is_one_file_without_scripts(page):
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "action", "srcset", "data", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "url(" not in page.text


def test_every_picture_and_region_has_a_name(page):
    for tag, attributes in page.elements:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]
        if attributes.get("role") == "region":
            assert attributes["aria-label"]
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_links_of_the_page_lead_somewhere(page):
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {attributes["href"][1:] for tag, attributes in page.elements if tag == "a"}
    assert links <= set(ids)
    assert {"guarantee", "audits"} <= links


def test_a_broken_audit_is_the_first_thing_that_is_said(run_copy):
    AuditResult(kind="canaries", title="Once more", verdict="broken", sentence="9 was shown.").write(run_copy, name="z")
    page = _Page(_report(run_copy))
    (alert,) = [attributes for _, attributes in page.elements if attributes.get("role") == "alert"]
    assert "bad" in alert["class"]
    assert "NOT PRIVATE: an audit contradicts the guarantee 9 was shown." in page.text
    assert "Trained with differential privacy" not in page.text


def test_values_validate_against_the_schema(data, tmp_path):
    jsonschema.Draft202012Validator.check_schema(report_schema())
    jsonschema.validate(data, report_schema())
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    jsonschema.validate(report_data(RunRecord.read(tmp_path)), report_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data | {"guarantee": {}}, report_schema())


def _everywhere(value):
    """The same values with every text and every key replaced by a hostile one where that is no keyword."""
    if isinstance(value, dict):
        return {key: _everywhere(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_everywhere(each) for each in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.fixture
def hostile_run(run_copy, tmp_path):
    """A run in which everybody who could name something has named it badly."""
    for name in ("summary.json", "ledger.json", "environment.json", "preparation.json", "classification.json"):
        values = json.loads((run_copy / name).read_text())
        hostile = _everywhere(values) | {key: values[key] for key in ("unit", "covers") if False}
        (run_copy / name).write_text(json.dumps(hostile))
    summary = json.loads((run_copy / "summary.json").read_text())
    summary["outcome"]["test"][HOSTILE] = 0.5
    summary["artefacts"] = {HOSTILE: HOSTILE}
    (run_copy / "summary.json").write_text(json.dumps(summary))
    preparation = json.loads((run_copy / "preparation.json").read_text())
    preparation["counts"] = {HOSTILE: 3}
    (run_copy / "preparation.json").write_text(json.dumps(preparation))
    (run_copy / "config.yaml").write_text("name: |\n  " + HOSTILE.replace("\x00", "") + "\n")
    metrics = (run_copy / "metrics" / "metrics.csv").read_text()
    quoted = HOSTILE.replace("\x00", "").replace('"', '""')
    (run_copy / "metrics" / "metrics.csv").write_text(metrics.replace("train/acc", f'"{quoted}"', 1))
    table = run_copy / "metrics" / "fairness" / "test-step=80.csv"
    table.write_text(table.read_text().replace("female", f'"{quoted}"').replace("gender", f'"{quoted}"'))
    AuditResult(
        kind="membership", title=HOSTILE, verdict="measured", sentence=HOSTILE, rows=((HOSTILE, HOSTILE),),
        curves=(AuditCurve(HOSTILE, (0.0, 1.0), (0.0, 1.0), HOSTILE, HOSTILE),),
        images=(AuditImage(HOSTILE, ((0.5,),)),),
    ).write(run_copy)  # fmt: skip
    return run_copy.rename(tmp_path / "a<b>&'\"c")


def test_nothing_hostile_in_a_folder_becomes_markup(hostile_run):
    text = _report(hostile_run)
    page = _Page(text)
    assert page.open == []
    tags = {tag for tag, _ in page.elements}
    assert "script" not in tags
    assert all(
        attributes["src"].startswith("data:image/png;base64,") for tag, attributes in page.elements if tag == "img"
    )
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
    assert "alert(1)" in page.text
    assert "{{ 7*7 }}" in page.text
    assert "49" not in page.text.split("{{ 7*7 }}")[0][-20:]
    assert not set("\x00\u202e") & set(text)
    assert text.count("</style>") == 1
    jsonschema.validate(report_data(RunRecord.read(hostile_run)), report_schema())


def test_half_a_surrogate_pair_loses_no_report(run_copy):
    AuditResult(kind="canaries", title="x", verdict="holds", sentence="cut \ud800 off").write(run_copy, name="cut")
    made = make_report(run_copy)
    assert "cut \ufffd off" in made.page.read_text(encoding="utf-8")
    jsonschema.validate(json.loads(made.values.read_text()), report_schema())


def test_a_report_of_very_much_stays_small(run_copy):
    names = [f"metric{number}" for number in range(60)]
    rows = [",".join(["epoch", "step", *names])]
    rows += [",".join(["0", str(step), *(f"{(step * (i + 1)) % 97 / 97}" for i in range(60))]) for step in range(1000)]
    (run_copy / "metrics" / "metrics.csv").write_text("\n".join(rows))
    (run_copy / "classification.json").write_text(
        json.dumps({"version": 1, "confusion": [[1] * 100] * 100, "classes": 100, "examples": 10_000})
    )
    long = tuple(range(5_000))
    AuditResult(
        kind="membership", title="m", verdict="measured", sentence="s",
        curves=tuple(AuditCurve(str(n), long, long) for n in range(30)),
        images=tuple(AuditImage(str(n), ((0.1, 0.9) * 50,) * 100) for n in range(60)),
    ).write(run_copy)  # fmt: skip
    made = make_report(run_copy)
    assert made.page.stat().st_size < 2_000_000
    assert made.values.stat().st_size < 10_000_000


def test_secrets_and_the_home_folder_are_left_out(run_copy, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    (run_copy / "config.yaml").write_text(
        "api_key: abc123\nlogger:\n  token: def456\n  dir: /home/somebody/runs\n- password: ghi789\nkey:\n  path: x\n"
    )
    text = html_report(report_data(RunRecord.read(run_copy)))
    for secret in ("abc123", "def456", "ghi789", "/home/somebody"):
        assert secret not in text
    assert "~/runs" in text
    assert "path: x" in text


def test_the_report_changes_nothing_else_in_the_folder(run_copy, tmp_path):
    def content(folder):
        return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content(run_copy)
    made = make_report(run_copy, into=tmp_path / "else" / "where")
    assert content(run_copy) == before
    assert sorted(path.name for path in made.page.parent.iterdir()) == ["model_card.md", "report.html", "report.json"]
    again = make_report(run_copy)
    assert again.page.read_bytes() == made.page.read_bytes()
    assert make_report(run_copy).page.read_bytes() == made.page.read_bytes()

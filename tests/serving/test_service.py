"""The routes of the service, what they refuse, and what a client can't make them do."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_privacy.errors import ConfigurationError
from lightning_privacy.serving import (
    ApiKeys,
    PrivatePredictor,
    RequestError,
    ServiceLimits,
    create_app,
    export,
    load_exported,
)
from lightning_privacy.serving._page import PAGE
from lightning_privacy.serving._requests import BINARY, JSON, parse_inputs
from lightning_privacy.serving._traffic import RateLimit
from lightning_privacy.serving.manifest import ModelCard

CARD = ModelCard("Net", (1, 3, 2), "float32", (4,), None, {})


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "clients.json"
    made = {name: ApiKeys.add(path, name) for name in ("clinic", "school")}
    return ApiKeys.load(path), made


@pytest.fixture
def service(small_export, keys, tmp_path):
    """A client that brings the clinic's key, of a service with noise and a budget of four answers."""
    predictor = PrivatePredictor(
        load_exported(small_export), mode="noisy_scores", epsilon=0.5, budget=2.0,
        ledger_path=tmp_path / "answers.db", key=bytes(32),
    )  # fmt: skip
    limits = ServiceLimits(max_bytes=2000, max_examples=5, burst=40, per_second=1e-3)
    with TestClient(create_app(predictor, api_keys=keys[0], limits=limits)) as client:
        client.headers["authorization"] = f"Bearer {keys[1]['clinic']}"
        yield client


def _error(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"name", "message"}
    return error["name"], error["message"]


def test_answers_budget_and_refusal(service, keys):
    answers = service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]] * 3}).json()["answers"]
    assert len(answers) == 3
    for answer in answers:
        assert answer["class"] == "abc"[answer["label"]]
        assert max(answer["scores"]) == answer["scores"][answer["label"]]
    assert service.get("/v1/budget").json() == {"client": "clinic", "remaining": 1}
    name, message = _error(service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]] * 2}), 403)
    assert name == "PrivacyBudgetExceeded"
    assert "1 would" in message
    assert service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]]}).status_code == 200
    assert service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]]}).status_code == 403
    school = {"authorization": f"Bearer {keys[1]['school']}"}
    assert service.get("/v1/budget", headers=school).json()["remaining"] == 4


def test_the_scale_is_told_and_another_one_is_refused_and_not_charged(small_network, tmp_path):
    folder = tmp_path / "scaled"
    export(small_network, folder, example_input=torch.zeros(1, 4), input_range=(-1, 1), formats=["torch"])
    predictor = PrivatePredictor(
        load_exported(folder), mode="noisy_argmax", epsilon=0.5, budget=2.0,
        ledger_path=tmp_path / "answers.db", key=bytes(32),
    )  # fmt: skip
    with TestClient(create_app(predictor, api_keys=None)) as client:
        assert client.get("/v1/model").json()["input_range"] == [-1.0, 1.0]
        name, message = _error(client.post("/v1/predict", json={"inputs": [[0, 255, 0, 0]]}), 400)
        assert name == "RequestError"
        assert "scale the model was trained on, -1 to 1, got 255" in message
        binary = client.post(
            "/v1/predict", content=np.full((1, 4), 255, "<f4").tobytes(), headers={"content-type": BINARY}
        )
        assert _error(binary, 400)[1] == message
        assert client.get("/v1/budget").json()["remaining"] == 4


def test_binary_inputs_are_answered(service):
    body = np.ones((2, 4), "<f4").tobytes()
    response = service.post("/v1/predict", content=body, headers={"content-type": BINARY})
    assert len(response.json()["answers"]) == 2


def test_open_routes_tell_nothing_of_clients(service):
    service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]]})
    service.get("/v1/nothing")
    del service.headers["authorization"]
    assert service.get("/health").json() == {"status": "ok"}
    text = service.get("/metrics").text
    assert 'lightning_privacy_requests_total{route="/v1/predict",status="200"} 1' in text
    assert "lightning_privacy_answers_total 1" in text
    assert "clinic" not in text
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\})? [0-9.e+-]+', line)


def test_the_page_stands_alone(service):
    response = service.get("/")
    assert response.text == PAGE
    assert not re.search(r"https?://|//\w|@import|<link(?![^>]*data:)|<img|src=", PAGE.replace("'/v1", ""))
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert response.headers["cache-control"] == "no-store"
    assert service.get("/docs").status_code == 404
    assert service.get("/openapi.json").status_code == 404


def test_the_model_tells_what_it_guarantees(service):
    told = service.get("/v1/model").json()
    assert (told["input_shape"], told["mode"], told["unit"]) == ([4], "noisy_scores", "person")
    assert "epsilon 0.5 with delta 0" in told["guarantee"]
    assert told["input_range"] is None


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer x", "Bearer lp_", "Bearer lp_0_0", "Basic x", "Bearer \u00ff", "Bearer " + "x" * 5000],
    ids=["none", "empty", "short", "prefix", "unknown", "basic", "latin", "long"],
)
def test_without_a_key_there_is_no_answer(service, authorization):
    del service.headers["authorization"]
    brought = [(b"authorization", authorization.encode("latin-1"))]
    for response in (
        service.get("/v1/model", headers=brought),
        service.get("/v1/budget", headers=brought),
        service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]]}, headers=brought),
    ):
        assert _error(response, 401)[0] == "Unauthorized"


def test_the_right_id_with_another_secret_is_no_key(service, keys):
    key = keys[1]["clinic"]
    service.headers["authorization"] = f"Bearer {key[:-1]}{'A' if key[-1] != 'A' else 'B'}"
    assert _error(service.get("/v1/budget"), 401)[0] == "Unauthorized"


def test_who_guesses_keys_is_slowed_down(service):
    service.headers["authorization"] = "Bearer lp_guess"
    statuses = [service.get("/v1/budget").status_code for _ in range(25)]
    assert statuses[:20] == [401] * 20
    assert statuses[20:] == [429] * 5


def test_a_client_has_a_rate(service, keys):
    statuses = [service.get("/v1/budget").status_code for _ in range(42)]
    assert statuses == [200] * 40 + [429] * 2
    response = service.get("/v1/budget")
    assert _error(response, 429)[0] == "TooManyRequests"
    assert int(response.headers["retry-after"]) >= 1
    school = {"authorization": f"Bearer {keys[1]['school']}"}
    assert service.get("/v1/budget", headers=school).status_code == 200


def test_a_bucket_refills_to_its_burst():
    limit = RateLimit(per_second=2.0, burst=3, most=2)
    assert [limit.wait("a", now=0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert [limit.wait("a", now=100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    for name in ("b", "c"):
        limit.wait(name, now=100.0)
    assert len(limit._tokens) == 2


def _chunks():
    for _ in range(100):
        yield b"[" * 100


@pytest.mark.parametrize(
    ("content", "headers", "status", "named"),
    [
        (b"x" * 2001, {}, 413, "at most 2000 bytes"),
        (_chunks(), {}, 413, "at most 2000 bytes"),
        (b"", {"content-length": "9" * 40}, 413, "at most 2000 bytes"),
        (b"{}", {"content-type": "text/csv"}, 415, "text/csv"),
        (b"{}", {}, 400, "inputs is missing"),
        (b'{"inputs": [[1, 2, 3]]}', {}, 400, r"shape \[N, 4\]"),
        (b'{"inputs": [[1, 2, 3, 4], [1]]}', {}, 400, "different lengths"),
        (b'{"inputs": [[1, 2, 3, NaN]]}', {}, 400, "NaN is not a number"),
        (b'{"inputs": [[1, 2, 3, 1e999]]}', {}, 400, "finite"),
        (b'{"inputs": [[1, 2, 3, "4"]]}', {}, 400, "of numbers"),
        (b'{"inputs": [[1, 2, 3, null]]}', {}, 400, "of numbers"),
        (b'{"inputs": [[true, false, true, true]]}', {}, 400, "of numbers"),
        (b'{"inputs": [[1, 2, 3, %s]]}' % (b"9" * 1500), {}, 400, "."),
        (b'{"inputs": [' + b"[" * 1900, {}, 400, "JSON|deep"),
        (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", {}, 400, "nested|shape|different"),
        (b'{"inputs": [], "client": "school"}', {}, 400, "unknown 'client'"),
        (b'{"inputs": []}', {}, 400, "shape|at least one"),
        (json.dumps({"inputs": [[1, 2, 3, 4]] * 6}).encode(), {}, 400, "at most 5 examples"),
        (b"\xff\xfe\x00", {}, 400, "not JSON"),
        (b"\0" * 17, {"content-type": BINARY}, 400, "multiple of 16 bytes"),
    ],
    ids=[
        "large", "chunks", "declared", "type", "empty", "shape", "ragged", "nan", "inf", "text", "null", "bool",
        "integer", "cut", "deep", "field", "none", "many", "bytes", "binary",
    ],
)  # fmt: skip
def test_a_wrong_request_is_named_and_costs_nothing(service, content, headers, status, named):
    response = service.post("/v1/predict", content=content, headers={"content-type": JSON, **headers})
    assert re.search(named, _error(response, status)[1])
    assert service.get("/v1/budget").json()["remaining"] == 4


def test_other_paths_and_methods_have_named_errors(service):
    assert _error(service.get("/v2/predict"), 404)[0] == "NotFound"
    assert _error(service.get("/v1/predict"), 405)[0] == "MethodNotAllowed"


def test_an_altered_ledger_stops_the_answers_and_tells_no_paths(service, tmp_path):
    path = tmp_path / "answers.db"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    name, message = _error(service.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]]}), 503)
    assert name == "LedgerUnavailable"
    assert str(tmp_path) not in message


def test_a_fault_of_the_service_tells_nothing(small_export, monkeypatch):
    predictor = PrivatePredictor(load_exported(small_export))
    monkeypatch.setattr(predictor, "answer_many", lambda requests: 1 / 0)
    with TestClient(create_app(predictor, api_keys=None)) as client:
        name, message = _error(client.post("/v1/predict", json={"inputs": [[1, 2, 3, 4]]}), 500)
    assert name == "InternalError"
    assert "division" not in message


def test_only_exported_models_are_served(small_network):
    with pytest.raises(ConfigurationError, match="exported model"):
        create_app(PrivatePredictor(nn.Linear(2, 2)), api_keys=None)
    with pytest.raises(ConfigurationError, match="max_bytes"):
        ServiceLimits(max_bytes=0)


_NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=12,
)


@given(body=st.binary(max_size=200) | _NESTED.map(json.dumps).map(str.encode))
@settings(deadline=None)
def test_any_body_is_refused_by_name(body):
    for kind in (JSON, BINARY):
        try:
            inputs = parse_inputs(body, kind, CARD, max_examples=4)
        except RequestError:
            continue
        assert kind == BINARY
        assert inputs.shape[1:] == (1, 3, 2)


@given(values=_NESTED, shape=st.sampled_from([(), (1,), (2, 2)]))
@settings(deadline=None)
def test_any_inputs_are_a_tensor_of_the_right_shape_or_refused(values, shape):
    card = ModelCard("Net", shape, "float32", (4,), None, {})
    body = json.dumps({"inputs": values}).encode()
    try:
        inputs = parse_inputs(body, JSON, card, max_examples=4)
    except RequestError:
        return
    assert tuple(inputs.shape[1:]) == shape
    assert 1 <= len(inputs) <= 4
    assert bool(inputs.isfinite().all())


@given(
    values=st.lists(
        st.lists(st.floats(-1e30, 1e30) | st.integers(-(2**40), 2**40), min_size=6, max_size=6),
        min_size=1,
        max_size=4,
    )
)
@settings(deadline=None)
def test_numbers_arrive_as_they_were_sent(values):
    array = np.array(values, dtype=np.float64).reshape(-1, 1, 3, 2)
    inputs = parse_inputs(json.dumps({"inputs": array.tolist()}).encode(), JSON, CARD, max_examples=4)
    assert torch.equal(inputs, torch.tensor(array).float())
    binary = parse_inputs(array.astype("<f4").tobytes(), BINARY, CARD, max_examples=4)
    assert torch.equal(binary, inputs)


def test_whole_numbers_are_asked_for_where_the_model_takes_them():
    card = ModelCard("Text", (2,), "int64", (4,), None, {})
    assert parse_inputs(b'{"inputs": [[1, 2]]}', JSON, card, max_examples=4).dtype == torch.int64
    with pytest.raises(RequestError, match="whole numbers"):
        parse_inputs(b'{"inputs": [[1, 2.5]]}', JSON, card, max_examples=4)
    assert math.prod(card.input_shape) == 2

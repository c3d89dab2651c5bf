"""Personal data inside prose: e-mail addresses, telephone, card and account numbers, names that the row itself has.

Patterns and check digits are presidio's (MIT): ``pip install 'lightning-privacy[free-text]'``. They need no language
model and no network. Names and places can't be told by a pattern: those of the row's own columns are found word by word
with ``names_from``, any others only by a language model of spaCy that is installed already, ``model="en_core_web_sm"``.
Nothing is downloaded. What is found is replaced by its kind, what is not found stays: read a sample before trusting it.

Each row changes by itself and by public rules: free under differential privacy.

With the extra installed, the step of the example makes ``<NAME> wrote from <EMAIL_ADDRESS>`` of "ADA wrote from
ada@example.org" in the row of Ada Byron.

Example:
    >>> step = HideFreeText(["note"], names_from=["name"])
    >>> step.name, step.private
    ('hide in free text', 'rowwise')
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar

import polars as pl
from typing_extensions import override

from lightning_privacy._validate import probability
from lightning_privacy.errors import ConfigurationError
from lightning_privacy.preparation._columns import column_names, require_columns
from lightning_privacy.preparation.step import Context, Step

__all__ = ["HideFreeText"]

# Labels of spaCy's models, English ones and those trained on news of other languages, as presidio calls them.
_MODEL_ENTITIES = {
    "PERSON": "PERSON",
    "PER": "PERSON",
    "GPE": "LOCATION",
    "LOC": "LOCATION",
    "FAC": "LOCATION",
    "ORG": "ORGANIZATION",
    "NORP": "NRP",
}
_MODEL_SCORE = 0.85
_ADDRESS = re.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>\"']+", re.IGNORECASE)
_ADDRESS_SCORE = 0.6
_SHORTEST_WORD = 2
_WINDOW, _OVERLAP = 1_000, 200  # characters; what is longer than the overlap may be found in part only
_NO_MODEL = (
    "Names and places in free text were looked for only where names_from gives their column: without a language model "
    "others stay."
)


@dataclass(frozen=True, order=True)
class _Span:
    """A place in a text, and what is there."""

    start: int
    end: int
    kind: str
    score: float


_Finder = Callable[[str], Iterator[_Span]]


class HideFreeText(Step):
    """Replaces personal data in prose by what kind it is: ``<EMAIL_ADDRESS>``.

    Args:
        columns: columns of prose; None for those of the role free_text.
        entities: kinds to look for, as presidio calls them; None for all it has a pattern for in this language, and all
            the model finds.
        names_from: columns of the row whose words are hidden in its prose, whole words without regard to case.
        model: name or folder of an installed spaCy model, which also finds names, places and organisations; None for
            patterns alone.
        language: of the patterns, such as ``"en"``, ``"de"``, ``"es"``, ``"it"``.
        score: how sure a pattern must be, in (0, 1]. Below 0.4 any number of eight digits is a bank account.

    Raises:
        ConfigurationError: an argument is out of range; at :meth:`fit`, presidio or the model is not installed, an
            entity is unknown, or a column is unknown or not of text.
    """

    name: ClassVar[str] = "hide in free text"
    learns: ClassVar[bool] = True  # the roles and the recognisers, nothing from the rows

    def __init__(
        self,
        columns: str | Iterable[str] | None = None,
        *,
        entities: Iterable[str] | None = None,
        names_from: Iterable[str] = (),
        model: str | None = None,
        language: str = "en",
        score: float = 0.4,
    ) -> None:
        super().__init__()
        self._columns = None if columns is None else column_names("columns", columns, empty=False)
        self._entities = None if entities is None else column_names("entities", entities, empty=False)
        self._names_from = column_names("names_from", names_from)
        if not isinstance(language, str) or not language:
            raise ConfigurationError(f"language must be a code such as 'en', got {language!r}")
        if model is not None and (not isinstance(model, str) or not model):
            raise ConfigurationError(f"model must be the name of a spaCy model or None, got {model!r}")
        self._language, self._model, self._score = language, model, probability(score=score)
        self._used: tuple[str, ...] = ()
        self._finders: list[_Finder] = []

    @override
    def check(self, schema: pl.Schema | None, context: Context) -> pl.Schema | None:
        super().check(schema, context)
        used = self._columns_of(context)
        if schema is not None:
            self._check_columns(used, schema)
        if not self._finders:
            self._finders = self._made_finders()
        return None if schema is None else pl.Schema({**schema, **dict.fromkeys(used, pl.String())})

    def _columns_of(self, context: Context) -> tuple[str, ...]:
        used = self._columns if self._columns is not None else context.roles.free_text
        if not used:
            raise ConfigurationError("hide in free text has no columns: give columns, or columns the role free_text")
        return used

    def _made_finders(self) -> list[_Finder]:
        """The recognisers, which are loaded once."""
        finders, kinds = _pattern_finders(self._language, self._entities, self._score)
        if self._model is not None:
            finders.append(_model_finder(self._model, self._entities))
            kinds |= set(_MODEL_ENTITIES.values())
        unknown = sorted(set(self._entities or ()) - kinds)
        if unknown:
            raise ConfigurationError(
                f"entities has {unknown[0]!r}, for which there is no pattern in {self._language!r}"
                f"{'' if self._model else ' and no model'}: there are {', '.join(sorted(kinds))}"
            )
        return finders

    @override
    def _fit(self, frame: pl.LazyFrame, context: Context) -> None:
        self._used = self._columns_of(context)
        if self._model is None:
            self._caveats = (*self._caveats, _NO_MODEL)

    def _check_columns(self, used: tuple[str, ...], schema: pl.Schema) -> None:
        require_columns("columns", used, schema)
        require_columns("names_from", self._names_from, schema)
        for name in used:
            if schema[name] not in (pl.String, pl.Null):
                raise ConfigurationError(f"column {name!r} holds {schema[name]} and not text")

    @override
    def _apply(self, frame: pl.LazyFrame) -> pl.LazyFrame:
        self._check_columns(self._used, frame.collect_schema())
        words = [pl.col(name).cast(pl.String).alias(f"word {place}") for place, name in enumerate(self._names_from)]
        return frame.with_columns(
            pl.struct(pl.col(name).cast(pl.String).alias("text"), *words)
            .map_batches(self._hide_all, return_dtype=pl.String, is_elementwise=True)
            .alias(name)
            for name in self._used
        )

    def _hide_all(self, rows: pl.Series) -> pl.Series:
        texts = [None if row["text"] is None else self._hide(row) for row in rows]
        return pl.Series(rows.name, texts, dtype=pl.String)

    def _hide(self, row: dict[str, str | None]) -> str:
        text = row["text"] or ""
        spans = [span for find in self._finders for span in find(text)]
        for place, name in enumerate(self._names_from):
            spans += _words_of(row[f"word {place}"], name.upper(), text)
        hidden, end = [], len(text)
        for span in reversed(_merged(spans)):
            hidden += [text[span.end : end], f"<{span.kind}>"]
            end = span.start
        hidden.append(text[:end])
        return "".join(reversed(hidden))

    def __getstate__(self) -> dict[str, Any]:
        # Recognisers are made anew where the step is fitted.
        return self.__dict__ | {"_finders": [], "_fitted": False}


def _words_of(value: str | None, kind: str, text: str) -> Iterator[_Span]:
    """Where words of a value stand in a text."""
    words = {word for word in re.findall(r"\w+", value or "") if len(word) >= _SHORTEST_WORD}
    if words:
        # Words next to one another are hidden as one.
        any_of = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        for match in re.finditer(rf"\b(?:{any_of})\b(?:\s+(?:{any_of})\b)*", text, flags=re.IGNORECASE):
            yield _Span(match.start(), match.end(), kind, 1.0)


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Spans that overlap as one, of the kind that is surest, so that no end of one is left over."""
    merged: list[_Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            surest = max(last, span, key=lambda each: (each.score, each.end - each.start))
            merged[-1] = _Span(last.start, max(last.end, span.end), surest.kind, surest.score)
        else:
            merged.append(span)
    return merged


def _pattern_finders(language: str, entities: tuple[str, ...] | None, score: float) -> tuple[list[_Finder], set[str]]:
    """The recognisers of presidio that need no language model, and the kinds they know."""
    if find_spec("presidio_analyzer") is None:
        raise ConfigurationError("free text needs presidio-analyzer: pip install 'lightning-privacy[free-text]'")
    import tldextract
    from presidio_analyzer import RecognizerRegistry

    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language])
    # The list of top-level domains comes with the package; by default it would be fetched, and kept in a folder.
    domain = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    finders: list[_Finder] = []
    kinds: set[str] = set()
    for recognizer in registry.recognizers:
        own = [kind for kind in recognizer.supported_entities if entities is None or kind in entities]
        # The model's names need a model, and the pattern of addresses of pages takes minutes for some texts.
        if "spacy" in type(recognizer).__name__.lower() or "URL" in recognizer.supported_entities:
            continue
        kinds |= set(recognizer.supported_entities)
        if "EMAIL_ADDRESS" in recognizer.supported_entities:
            vars(recognizer)["validate_result"] = lambda found: domain(found).fqdn != ""
        if own:
            finders.append(_finder_of(recognizer, own, score))
    if not kinds:
        raise ConfigurationError(f"language {language!r} has no patterns in presidio: take 'en', 'de', 'es' or 'it'")
    if entities is None or "URL" in entities:
        finders.append(_addresses)
    return finders, kinds | {"URL"}


def _addresses(text: str) -> Iterator[_Span]:
    for match in _ADDRESS.finditer(text):
        yield _Span(match.start(), match.end(), "URL", _ADDRESS_SCORE)


def _finder_of(recognizer: Any, kinds: list[str], score: float) -> _Finder:
    def find(text: str) -> Iterator[_Span]:
        for start, window in _windows(text):
            for found in recognizer.analyze(text=window, entities=kinds, nlp_artifacts=None) or ():
                if found.score >= score:
                    yield _Span(start + found.start, start + found.end, found.entity_type, found.score)

    return find


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """Pieces that overlap: a pattern may take time that grows with the square of the text."""
    for start in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
        yield start, text[start : start + _WINDOW]


def _model_finder(model: str, entities: tuple[str, ...] | None) -> _Finder:
    """Names, places and organisations, by a spaCy model that is here."""
    import spacy

    try:
        nlp = spacy.load(model)
    except OSError as error:
        raise ConfigurationError(
            f"the spaCy model {model!r} is not installed, and nothing is downloaded here: python -m spacy download "
            f"{model}, or take model=None for patterns alone"
        ) from error

    def find(text: str) -> Iterator[_Span]:
        nlp.max_length = max(nlp.max_length, len(text) + 1)
        for found in nlp(text).ents:
            kind = _MODEL_ENTITIES.get(found.label_)
            if kind is not None and (entities is None or kind in entities):
                yield _Span(found.start_char, found.end_char, kind, _MODEL_SCORE)

    return find

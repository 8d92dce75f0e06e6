"""How long a pipeline keeps its dataset versions, and where: the section ``datasets`` of ``pipeline.yaml``."""

from collections.abc import Mapping
from pathlib import Path

from features.dataset_retention import DEFAULT, Terms
from features.dataset_store import KINDS
from journal.located import Mistakes, read_document
from rivermill.source_file import Section

SECTION = "datasets"
_FOREVER = "forever"


def terms_of(folder: Path) -> Mapping[str, Terms]:
    """The terms by kind, of a pipeline's folder; what it does not say is as by default.

    Raises:
        Misconfigured: With the mistakes in the section.
    """
    mistakes = Mistakes()
    document = read_document(folder / "pipeline.yaml", mistakes)
    terms = DEFAULT if document is None else read_terms(Section(document, mistakes))
    mistakes.raise_all(f"pipeline {folder.name}", "Mend the lines named, then try again")
    return terms


def read_terms(top: Section) -> Mapping[str, Terms]:
    """The same of a pipeline's document, with what is wrong noted."""
    if not top.has(SECTION):
        return DEFAULT
    section = top.section(SECTION)
    terms = {kind: _terms(section, kind) if section.has(kind) else DEFAULT[kind] for kind in KINDS}
    section.finish()
    return terms


def _terms(kinds: Section, kind: str) -> Terms:
    section = kinds.section(kind)
    standard, keep = _span(section, "standard"), _span(section, "keep")
    if keep is not None and standard is not None and keep < standard:
        section.wrong("keep", "is shorter than 'standard': rows cannot be ready to read longer than they are kept")
    section.finish()
    return Terms(standard=standard, keep=keep)


def _span(section: Section, name: str) -> int | None:
    """A span, or ``forever``, as which an absent one counts too."""
    is_forever = not section.has(name) or section.entries[name] == _FOREVER
    return None if is_forever and section.text(name, default=_FOREVER) else section.span(name)

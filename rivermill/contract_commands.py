"""The command line's verbs for contracts: check, diff, list."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rivermill import console_output as out
from rivermill.place import Place, json_option, pipeline_argument

if TYPE_CHECKING:
    from journal.contract import Contract


@click.group()
def contracts() -> None:
    """What producers promised: check it, compare it, list it."""


@contracts.command("check")
@pipeline_argument
@json_option
@click.pass_obj
def contracts_check(place: Place, pipeline: str, as_json: bool) -> None:
    """Read every contract and adapter of PIPELINE; exit 4 with all mistakes, each with its file and line."""
    loaded = _load(place.folder(pipeline))
    out.show_mapping(
        {
            "streams": len(loaded),
            "earlier": sum(len(contract.earlier) for contract in loaded.values()),
            "rules": sum(len(contract.quality) for contract in loaded.values()),
            "mistakes": 0,
        },
        as_json,
    )


@contracts.command("list")
@pipeline_argument
@json_option
@click.pass_obj
def contracts_list(place: Place, pipeline: str, as_json: bool) -> None:
    """List the contracts of PIPELINE with their versions, modes, owners and objectives."""
    loaded = _load(place.folder(pipeline))
    rows = [_row(each) for name in sorted(loaded) for each in (loaded[name], *loaded[name].earlier)]
    out.show_table(rows, as_json)


@contracts.command("diff")
@pipeline_argument
@click.option("--against", type=click.Path(path_type=Path, file_okay=False), help="Another folder of contracts.")
@json_option
@click.pass_obj
def contracts_diff(place: Place, pipeline: str, against: Path | None, as_json: bool) -> None:
    """Compare each contract of PIPELINE with its earlier version, or with the contracts in another folder.

    Exits 4 when something breaks and the major version does not say so.
    """
    from journal.contract import load_contracts
    from journal.contract_diff import require_versioned

    loaded = _load(place.folder(pipeline))
    pairs = list(_with_earlier(loaded) if against is None else _with_others(load_contracts(against), loaded))
    out.show_table([row for old, new in pairs for row in _rows(old, new)], as_json)
    for old, new in pairs:
        if old is not None and new is not None:
            require_versioned(old, new)


def _load(folder: Path) -> "dict[str, Contract]":
    """The contracts of a pipeline, once its adapters were found to be whole; raises Misconfigured."""
    from journal.contract import load_contracts
    from rivermill.adapter_file import load_adapters

    loaded = load_contracts(folder / "contracts")
    load_adapters(folder, loaded)
    return loaded


def _row(contract: "Contract") -> dict[str, Any]:
    from journal.clock import format_span

    spans = {"retention": contract.retention, "latency": contract.timeliness, "rpo": contract.rpo, "rto": contract.rto}
    return {
        "stream": contract.stream,
        "version": contract.version,
        "mode": contract.mode,
        "owner": contract.owner,
        "fields": len(contract.fields),
        "personal": len(contract.personal),
        "rules": len(contract.quality),
        **{name: "" if span is None else format_span(span) for name, span in spans.items()},
    }


def _with_earlier(loaded: "dict[str, Contract]") -> "Iterator[tuple[Contract, Contract]]":
    for _, contract in sorted(loaded.items()):
        versions = (contract, *contract.earlier)
        yield from zip(contract.earlier, versions, strict=False)


def _with_others(
    others: "dict[str, Contract]", loaded: "dict[str, Contract]"
) -> "Iterator[tuple[Contract | None, Contract | None]]":
    for stream in sorted(others.keys() | loaded.keys()):
        yield others.get(stream), loaded.get(stream)


def _rows(old: "Contract | None", new: "Contract | None") -> list[dict[str, Any]]:
    from journal.contract_diff import diff

    if old is None or new is None:
        contract = old or new
        assert contract is not None, "one of a pair is there"
        what = "new stream" if old is None else "stream removed"
        return [_change(contract.stream, contract.version, "(stream)", what, breaking=new is None)]
    versions = f"{old.version} -> {new.version}"
    return [_change(new.stream, versions, each.field, each.what, breaking=each.breaking) for each in diff(old, new)]


def _change(stream: str, versions: str, field: str, what: str, *, breaking: bool) -> dict[str, Any]:
    return {
        "stream": stream,
        "versions": versions,
        "field": field,
        "change": what,
        "verdict": "breaking" if breaking else "compatible",
    }

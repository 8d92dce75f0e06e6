"""The rules that a dataset keeps, as a pandera schema.

Each prediction once, in order; an outcome each; finite numbers; and of the question's own columns what the contract
promised of their fields.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from journal.errors import Refused
from journal.field import Field

_ROWS_PER_PASS = 100_000
_SHOWN = 5


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that held.

    Attributes:
        rule: In words.
        columns: How many columns it is about.
        values: How many values were checked; missing ones are not.
    """

    rule: str
    columns: int
    values: int


def check(table: pa.Table, promised: Mapping[str, Field] | None = None) -> list[Checked]:
    """Hold the rows to the rules, a part of them at a time, so that a year's rows need not lie twice in memory.

    Args:
        table: A dataset's rows.
        promised: By column the contract's field that it comes from.

    Returns:
        What was checked.

    Raises:
        Refused: With the failing rows (by prediction offset) and rules.
    """
    rules = {name: field for name, field in (promised or {}).items() if name in table.column_names}
    schema = _schema(table.schema, rules)
    cases = []
    names = list(schema.columns)
    for start in range(0, max(len(table), 1), _ROWS_PER_PASS):
        part = table.slice(start, _ROWS_PER_PASS)
        cases += _failures(schema, _frame(part.select(names)), part["prediction"].to_numpy())
    cases += _repeated(table["prediction"].to_numpy())
    if cases:
        shown = "; ".join(f"prediction {row}, {column}: {rule}" for row, column, rule in cases[:_SHOWN])
        raise Refused(
            which=f"{len(cases)} cell(s) break the dataset's rules: {shown}",
            fix="Look at those predictions with `rivermill journal tail --from`",
        )
    return _checked(table, rules)


_Case = tuple[int, str, str]


def _schema(schema: pa.Schema, promised: Mapping[str, Field]) -> Any:
    import pandera.pandas as pandera  # noqa: PLC0415 - costs a second that only a build should pay

    finite = pandera.Check(np.isfinite, ignore_na=True, error="not finite")
    columns = {"outcome": pandera.Column(nullable=False)}
    for field in schema:
        rules = [finite] if pa.types.is_floating(field.type) else []
        if field.name in promised:
            accepts = promised[field.name].accepts()
            rules.append(pandera.Check(accepts, element_wise=True, ignore_na=True, error="outside its contract"))
        if rules:
            required = field.name in promised and promised[field.name].required
            columns[field.name] = pandera.Column(checks=rules, nullable=not required)
    return pandera.DataFrameSchema(columns, strict=True)


def _frame(table: pa.Table) -> Any:
    """Whole numbers stay whole: beside a null pandas would make floats of them, which no contract promises."""
    import pandas as pd  # noqa: PLC0415 - as above

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return table.to_pandas(types_mapper=nullable.get)


def _failures(schema: Any, frame: Any, predictions: Any) -> list[_Case]:
    import pandera.errors  # noqa: PLC0415 - as above

    try:
        schema.validate(frame, lazy=True, inplace=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        found = zip(cases["index"], cases["column"], cases["check"], strict=True)
        return [(int(predictions[int(row)]), str(column), str(rule)) for row, column, rule in found]
    return []


def _repeated(predictions: Any) -> list[_Case]:
    """Predictions that stand more than once; they come in rising order."""
    return [(int(offset), "prediction", "not rising") for offset in predictions[1:][np.diff(predictions) <= 0]]


def _checked(table: pa.Table, promised: Mapping[str, Field]) -> list[Checked]:
    floats = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    return [
        Checked(rule=rule, columns=len(columns), values=sum(len(table) - table[name].null_count for name in columns))
        for rule, columns in (
            ("each prediction once, in order", ["prediction"]),
            ("an outcome", ["outcome"]),
            ("finite", floats),
            ("within the contract", list(promised)),
        )
        if columns
    ]

"""Records handed in again: what a forged or a shortened journal is made of."""

from journal.record import Draft, Record


def draft_again(record: Record) -> Draft:
    """The draft that a record was made from."""
    return Draft(**{name: getattr(record, name) for name in Draft.__struct_fields__})

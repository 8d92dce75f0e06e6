"""The form in which a model leaves Rivermill: which module answers from it, and what that module needs."""

from dataclasses import dataclass

from journal.errors import Misconfigured

_RUNTIMES = {
    "treelite": ("treelite",),
    "onnx": ("onnxruntime",),
    "skops": ("skops", "scikit-learn"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Portable:
    """A model in the form that it travels in.

    Attributes:
        reader: The module that answers from it, with a flavor's `load`, `inputs` and `predict_one`.
        data: What that module loads.
        requirements: The distributions that it imports only for some models, this one being such; without versions.
        named: Modules that the data names and the reader does not import.
        state: Whether the data is a whole pickled state, to be read by an allow-list.
    """

    reader: str
    data: bytes
    requirements: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    state: bool = False


def portable_of(family: str, model: bytes) -> Portable:
    """How a stored model travels. Check its signature first.

    A River model goes as its parameters where it is nothing else, and then needs no River; otherwise as its state.

    Raises:
        Misconfigured: No such family.
        Untrusted: The bytes are not a model of it.
    """
    match family:
        case "river":
            return _river(model)
        case "batch":
            return _batch(model)
        case _:
            raise Misconfigured(which=f"family {family!r} does not travel", fix="It is river or batch")


def _river(model: bytes) -> Portable:
    from registry.flavors import river, river_document, river_parts  # noqa: PLC0415 - a batch version needs no River
    from registry.pyfunc import linear  # noqa: PLC0415

    document = river_document.document(river.load(model))
    if document is not None:
        return Portable(reader=linear.__name__, data=river_document.write(document))
    return Portable(reader=river.__name__, data=model, named=(river_parts.__name__,), state=True)


def _batch(model: bytes) -> Portable:
    from registry.flavors.batch_document import unpacked  # noqa: PLC0415 - and a River version no Arrow

    runtime = unpacked(model).runtime
    return Portable(reader="registry.flavors.batch", data=model, requirements=_RUNTIMES[runtime])

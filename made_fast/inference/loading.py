"""``load``: a model, a mixture of models or the model of a table, from a file that :meth:`save` wrote.

Not here: the file (``tensorfile.py``, ``modelfile.py``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from made_fast.inference import modelfile, tensorfile
from made_fast.inference.density import Density
from made_fast.inference.latent import from_content
from made_fast.inference.mixture import MixtureModel
from made_fast.inference.model import MADEModel
from made_fast.tables import arguments

if TYPE_CHECKING:
    from made_fast.inference.tablemodel import TableModel

__all__ = ["load"]


def load(source: Any, *, mmap: bool = False) -> MADEModel | MixtureModel | TableModel:
    """Read a model, a mixture of models, or the model of a table, that ``save`` wrote.

    Parameters
    ----------
    source : path, bytes-like or binary file
        A path (str or ``os.PathLike``); or the content of such a file, as bytes, bytearray or memoryview; or a file open for
        reading bytes, read from where it stands to its end. It is untrusted: everything in it is checked, nothing executed.
    mmap : bool
        Map the parameters of the file at a path instead of reading them: many processes then share one copy. Replace a file
        that is being served by a rename, as ``save`` does, never in place: ``cp`` and ``rsync --inplace`` over it change the
        model under way, and a mapped file that is cut short kills the processes that use it (SIGBUS).

    Raises
    ------
    OSError
        The file cannot be opened or read.
    ModelFileError
        It is not a whole, consistent model file; a ValueError.
    """
    mmap = arguments.boolean(mmap, "mmap")
    path, content = _content_of(source)
    if mmap and content is not None:
        raise ValueError(f"mmap=True needs the path of a file to map, got {path}. Pass its path, or leave mmap out.")
    tensors, metadata = tensorfile.read(path, mmap=mmap, content=content)
    columns = modelfile.take_columns(tensors, path)
    model: MADEModel | MixtureModel
    if metadata.get("kind") != "ensemble":
        model = from_content(modelfile.decode(tensors, metadata, path), path)
    else:
        model = _mixture(modelfile.decode_ensemble(tensors, metadata, path), path)
    return model if columns is None else _of_table(model, columns, path)


def _mixture(found: modelfile.EnsembleContent, path: str) -> MixtureModel:
    members = [from_content(member._replace(feature_names=found.feature_names), path) for member in found.members]
    try:
        return MixtureModel(members, found.weights, hyper=found.hyper)
    except ValueError as error:
        raise tensorfile.file_error(path, "it must hold a mixture", str(error), "Save the model again.") from error


def _of_table(density: Density, columns: dict[str, Any], path: str) -> TableModel:
    from made_fast.inference.tablemodel import TableModel  # no server of binary data needs it
    from made_fast.tables.columns.encoder import Encoder

    try:
        return TableModel(density, Encoder.from_json(columns))
    except ValueError as error:
        raise tensorfile.file_error(path, "its columns must be whole", str(error), "Save the model again.") from error


def _content_of(source: Any) -> tuple[str, bytes | None]:
    """Return the name of a source in errors, and its content; None if the source is a path."""
    if isinstance(source, bytes | bytearray | memoryview):
        name, content = type(source).__name__, bytes(source)
        if len(content) < 1 << 12 and b"\0" not in content:  # the length of a header has zeros
            way_out = "Bytes are the content of a file; if they are its path, pass os.fsdecode(path)."
            raise tensorfile.file_error(name, "it must hold a model file", content, way_out)
        return name, content
    if isinstance(source, str | os.PathLike):
        return arguments.path(source, "source"), None
    if not callable(getattr(source, "read", None)):
        demand = "source must be a path (str or os.PathLike), the content of a file (bytes) or a file open for reading bytes"
        raise TypeError(f"{demand}, got {arguments.shown(source)} of type {type(source).__name__}.")
    given = getattr(source, "name", None)
    name = given if isinstance(given, str) else f"an open {type(source).__name__}"
    content = source.read()
    if not isinstance(content, bytes | bytearray | memoryview):
        found = f"one that reads {type(content).__name__} ({name}). Open it in binary mode, open(path, 'rb')"
        raise TypeError(f"source must be a file open for reading bytes, got {found}.")
    return name, bytes(content)

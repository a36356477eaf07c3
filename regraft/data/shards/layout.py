"""Which column of a Parquet or an Arrow file holds the images, and which say something of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from regraft.data.names import guess, listing, printable
from regraft.errors import DataUnusable
from regraft.recipe import Data, is_url

if TYPE_CHECKING:
    import pyarrow as pa

_METADATA: Final = b"huggingface"
# What columns of images are called, where nothing else tells.
_IMAGE_NAMES: Final = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "bytes")
_NAME_COLUMN: Final = "name"
_MOST_METADATA: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Which column of a file is what: `image` holds the images, in its field `bytes` where `nested`.

    `path` is the field of the images' names. `classes` name the numbers of the labels.
    """

    image: str
    nested: bool
    path: bool
    label: str | None = None
    classes: tuple[str, ...] | None = None
    name: str | None = None
    split: str | None = None
    group: str | None = None

    @property
    def told(self) -> list[str]:
        """The columns that say something of the images, with names as Parquet has them."""
        beside = [name for name in (self.label, self.name, self.split, self.group) if name is not None]
        return [*beside, *([f"{self.image}.path"] if self.path else [])]


def holds_images(path: Path) -> bool:
    """Whether a Parquet file of this machine has the images in it, and is no table of their paths."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return False
    found = _image_column(schema, _features(schema, str(path)))
    if found is None:
        return False
    # A binary column beside one of paths may be anything.
    return is_struct(schema.field(found).type) or not _has_paths(schema)


def layout_of(schema: "pa.Schema", place: str, data: Data, *, labelled: bool) -> Layout:
    """Which column is what. Raises DataUnusable where there is no column of images or, where wanted, none of labels."""
    features = _features(schema, place)
    image = _image_column(schema, features)
    if image is None:
        raise DataUnusable(
            expected="a column of images: binary, or a struct with the field bytes",
            got=f"{printable(place)} with the columns {listing(schema.names, 30)}",
            fix="write the bytes of the image files into one, or give a table of their paths",
        )
    kind = schema.field(image).type
    nested = is_struct(kind)
    label = _label_column(schema, features, data, place) if labelled else None
    return Layout(
        image=image,
        nested=nested,
        path=nested and kind.get_field_index("path") >= 0,
        label=label,
        classes=_class_names(features.get(label)) if label else None,
        name=_NAME_COLUMN if _is_text(schema, _NAME_COLUMN) else None,
        split=data.split_column if data.split_column in schema.names else None,
        group=data.group_column if data.group_column in schema.names else None,
    )


def _label_column(schema: "pa.Schema", features: Mapping[str, Any], data: Data, place: str) -> str:
    if data.label_column in schema.names:
        return data.label_column
    known: list[str] = [name for name in schema.names if _class_names(features.get(name)) is not None]
    if len(known) == 1:
        return known[0]
    meant = guess(data.label_column, schema.names)
    raise DataUnusable(
        expected=f"a column {data.label_column!r} in {printable(place)}",
        got=f"the columns {listing(schema.names, 30)}{f'; did you mean {meant!r}?' if meant else ''}",
        fix="name yours with --label-column",
    )


def _image_column(schema: "pa.Schema", features: Mapping[str, Any]) -> str | None:
    declared = [
        name for name in schema.names if isinstance(features.get(name), dict) and features[name].get("_type") == "Image"
    ]
    structs = [name for name in schema.names if is_struct(schema.field(name).type)]
    binary = [name for name in schema.names if _is_binary(schema.field(name).type)]
    called = [name for name in _IMAGE_NAMES if name in binary]
    fitting = [name for name in declared if name in structs or name in binary]
    return next(iter([*fitting, *structs, *called, *(binary if len(binary) == 1 else [])]), None)


def is_struct(kind: Any) -> bool:
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return False
    index = kind.get_field_index("bytes")
    return index >= 0 and _is_binary(kind.field(index).type)


def _is_binary(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(schema: "pa.Schema", name: str) -> bool:
    import pyarrow as pa

    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _has_paths(schema: "pa.Schema") -> bool:
    return _is_text(schema, "path")


def _features(schema: "pa.Schema", place: str) -> Mapping[str, Any]:
    """What datasets says of the columns: in the schema, or beside what it saved in dataset_info.json."""
    told = (schema.metadata or {}).get(_METADATA)
    beside = None if is_url(place) else Path(place).parent / "dataset_info.json"
    try:
        if told is not None:
            features = json.loads(told)["info"]["features"]
        elif beside is not None and beside.is_file() and beside.stat().st_size <= _MOST_METADATA:
            features = json.loads(beside.read_bytes())["features"]
        else:
            return {}
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    """The names of a ClassLabel, or of the ClassLabels in a list."""
    if isinstance(feature, list) and len(feature) == 1:
        return _class_names(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        return tuple(str(name) for name in names) if isinstance(names, list) else None
    return _class_names(feature.get("feature"))

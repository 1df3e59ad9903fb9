"""Whether the options of `load` that name columns and arrays are about the data at hand."""

from __future__ import annotations

from xclf.data._dataset import DataError, Dataset, ReadOptions

_DEFAULT = ReadOptions()


def check_column_options(options: ReadOptions) -> None:
    """DataError for a column that two options, or one of them twice, claim."""
    label = options.label
    labels = () if label is None else (label,) if isinstance(label, str) else label
    owner: dict[str, str] = {}
    claims = [("label", name) for name in labels]
    claims += [] if options.id is None else [("id", options.id)]
    claims += [("drop", name) for name in dict.fromkeys(options.drop)]
    for option, name in claims:
        if name in owner:
            what = f"both {_named(owner[name])} and {_named(option)} name"
            if owner[name] == option:
                what = f"{_named(option)} names twice"
            raise DataError(f"{what} the column {name!r}: a column is one of these")
        owner[name] = option


def check_options_used(options: ReadOptions, data: Dataset) -> None:
    """DataError for an option that has no effect on the data that were read."""
    if options.missing_ok:
        return
    if data.feature_names is None:
        for option in ("label", "id", "drop"):
            value = getattr(options, option)
            if value and not (option == "label" and data.label_names):
                shown = value if isinstance(value, str) else ", ".join(value)
                raise DataError(
                    f"{data.source}: its columns have no names; {_named(option)} {shown!r} is for "
                    "tables"
                )
    names = data.array_names or ("", "")
    for option, found in (("x_name", names[0]), ("y_name", names[1])):
        value = getattr(options, option)
        if value not in (getattr(_DEFAULT, option), found):
            raise DataError(
                f"{data.source}: holds no arrays with names; {_named(option)} {value!r} is for "
                "files of several, such as .npz"
            )


def _named(option: str) -> str:
    """An option as Python and the shell spell it."""
    return f"{option}= (in the shell --{option.removesuffix('_name')})"

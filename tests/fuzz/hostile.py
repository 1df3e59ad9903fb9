"""Valid files of every format, and mutations of their bytes."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import hashlib
import io
import json
import os
import pickle
import random
import struct
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import scipy.sparse

import xclf

#: What a payload would do if it ran: the audit hook of the worker sees each of these.
COMMAND = "touch executed-by-a-file"


@dataclass(frozen=True)
class Source:
    """A valid data source: file names and contents, and the one that `load` is given.

    changed : the file that is mutated;  options : of `load`;  model : for `xclf.load`
    """

    kind: str
    name: str
    files: dict[str, bytes]
    changed: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> bool:
        return self.kind.startswith("model")


class Payload:
    """An object whose pickle is a call."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


PAYLOADS = (
    Payload(os.system, COMMAND),
    Payload(eval, f"__import__('os').system({COMMAND!r})"),
    Payload(exec, f"import os; os.system({COMMAND!r})"),
    Payload(os.mkdir, "executed-by-a-file"),
    Payload(getattr, "text", "upper"),
)


def _bytes_of(write: Callable[..., Any], *values: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    write(buffer, *values, **options)
    return buffer.getvalue()


@functools.cache
def sources() -> tuple[Source, ...]:
    """One or several valid files of each format."""
    r = np.random.default_rng(0)
    x, y = r.normal(size=(24, 5)).astype(np.float32), np.arange(24) % 3
    names = np.array(["ash", "birch", "cedar"])[y]
    return (
        *_numpy(x, y, names),
        *_tables(x, names),
        *_texts(x, y),
        *_tensors(x, y),
        *_images(r),
        *_pickles(r),
        *_models(x, names),
    )


def _numpy(x: np.ndarray, y: np.ndarray, names: np.ndarray) -> list[Source]:
    def one(kind: str, file: str, data: bytes, **options: Any) -> Source:
        return Source(kind, file, {file: data}, file, options)

    hostile = np.array([*PAYLOADS, 1.0], dtype=object)
    whole = _bytes_of(np.save, x)
    return [
        one("npz", "t.npz", _bytes_of(np.savez, X=x, y=names)),
        one("npz", "t.npz", _bytes_of(np.savez_compressed, X=x, y=y, X_test=x, y_test=y)),
        one("npz", "t.npz", _bytes_of(np.savez, X=x, y=hostile, allow_pickle=True)),
        *(
            one("npz", "t.npz", _bytes_of(scipy.sparse.save_npz, matrix), need_labels=False)
            for matrix in (scipy.sparse.csr_array(x), scipy.sparse.coo_array(x))
        ),
        one("npy", "t.npy", whole, need_labels=False),
        one("npy", "t.npy", _bytes_of(np.save, x.T.copy().T.astype(">f8")), need_labels=False),
        one("npy", "t.npy", _bytes_of(np.save, hostile[:, None]), need_labels=False),
        Source("npy", "x.npy,y.npy", {"x.npy": whole, "y.npy": _bytes_of(np.save, names)}, "y.npy"),
    ]


def _tables(x: np.ndarray, names: np.ndarray) -> list[Source]:
    import pyarrow
    from pyarrow import feather, parquet

    columns = {f"f{k}": x[:, k] for k in range(x.shape[1])} | {"label": names}
    table = pyarrow.table(columns)
    vectors = pyarrow.table({"embedding": list(x), "label": names})
    pickled = pickle.dumps(PAYLOADS[0])
    extension = pyarrow.field(
        "f9",
        pyarrow.float32(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": pickled,
        },
    )
    crafted = table.append_column(extension, pyarrow.array(x[:, 0]))
    files = [
        ("parquet", "t.parquet", _bytes_of(lambda f, t: parquet.write_table(t, f), t))
        for t in (table, vectors, crafted)
    ]
    for compression in ("uncompressed", "lz4"):
        write = functools.partial(feather.write_feather, compression=compression)
        data = _bytes_of(lambda f, t, write=write: write(t, f), crafted)
        files.append(("arrow", "t.feather", data))
    return [Source(kind, name, {name: data}, name) for kind, name, data in files]


def _texts(x: np.ndarray, y: np.ndarray) -> list[Source]:
    lines = ["a,b,c,d,e,label"]
    lines += [",".join(map(str, row)) + f",k{k}" for row, k in zip(x.tolist(), y, strict=True)]
    csv = "\n".join(lines).encode()
    svm = "\n".join(
        f"{k} " + " ".join(f"{j + 1}:{v:.4g}" for j, v in enumerate(row))
        for row, k in zip(x.tolist(), y, strict=True)
    ).encode()
    bomb = gzip.compress(b"a,b,label\n" + b"1,2,3\n" * 2_000_000)
    files = [
        ("csv", "t.csv", csv),
        ("csv", "t.tsv", csv.replace(b",", b"\t")),
        ("csv", "t.csv.gz", gzip.compress(csv)),
        ("csv", "t.csv.gz", bomb),
        ("svmlight", "t.svm", svm),
        ("svmlight", "t.svm.gz", gzip.compress(svm)),
        ("svmlight", "t.svm.bz2", bz2.compress(svm)),
    ]
    return [Source(kind, name, {name: data}, name) for kind, name, data in files]


def _tensors(x: np.ndarray, y: np.ndarray) -> list[Source]:
    import safetensors.numpy

    arrays = {"X": x, "y": y}
    lines = "\n".join(
        json.dumps({"e": row, "label": f"k{k}"}) for row, k in zip(x.tolist(), y, strict=True)
    )
    files = [
        ("safetensors", "t.safetensors", safetensors.numpy.save(arrays)),
        ("json lines", "t.jsonl", lines.encode()),
    ]
    with contextlib.suppress(ImportError):
        import torch

        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for one in (tensors, {**tensors, "more": PAYLOADS[0]}, PAYLOADS[1]):
            files.append(("pt", "t.pt", _bytes_of(lambda f, one=one: torch.save(one, f))))
    with contextlib.suppress(ImportError):
        import h5py

        for packed in (None, "gzip"):
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as file:
                for name, array in arrays.items():
                    file.create_dataset(name, data=array, compression=packed)
            files.append(("hdf5", "t.h5", buffer.getvalue()))
    return [Source(kind, name, {name: data}, name) for kind, name, data in files]


def _images(r: np.random.Generator) -> list[Source]:
    pixels = r.integers(0, 256, (4, 6, 6), np.uint8)
    labels = np.arange(4, dtype=np.uint8)
    images = struct.pack(">IIII", 0x803, *pixels.shape) + pixels.tobytes()
    names = struct.pack(">II", 0x801, 4) + labels.tobytes()
    plain = {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": names}
    packed = {f"{name}.gz": gzip.compress(data) for name, data in plain.items()}
    records = b"".join(bytes([k]) + r.integers(0, 256, 3072, np.uint8).tobytes() for k in range(3))
    return [
        *(Source("idx", ".", files, name) for files in (plain, packed) for name in files),
        Source(
            "cifar binary", "data_batch_1.bin", {"data_batch_1.bin": records}, "data_batch_1.bin"
        ),
        Source(
            "cifar binary",
            "train.bin",
            {"train.bin": b"".join(b"\1" + records[k : k + 3073] for k in (0, 3073))},
            "train.bin",
        ),
    ]


def _pickles(r: np.random.Generator) -> list[Source]:
    pixels = r.integers(0, 256, (3, 3072), np.uint8)
    batch = {b"data": pixels, b"labels": [0, 1, 2], b"batch_label": b"one"}
    hostile = [{**batch, b"labels": [payload, payload, payload]} for payload in PAYLOADS]
    hostile += [{**batch, b"data": payload} for payload in PAYLOADS]
    bombs = [b"\x80\x02" + b"]q\x00" + b"(h\x00" * 50 + b"e" * 50 + b"."]
    contents = [pickle.dumps(batch, protocol) for protocol in (0, 2, 4)]
    contents += [pickle.dumps(one, 2 + 2 * (k % 2)) for k, one in enumerate(hostile)] + bombs
    return [
        Source("cifar python", "data_batch_1", {"data_batch_1": data}, "data_batch_1")
        for data in contents
    ]


def _models(x: np.ndarray, names: np.ndarray) -> list[Source]:
    models = [
        xclf.SoftmaxClassifier(max_iter=5, class_weight={"ash": 2.0}),
        xclf.SVMClassifier(max_iter=5),
        xclf.TwoLayerClassifier(hidden=3, max_iter=2, random_state=0),
    ]
    found = []
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = [model.fit(x, names) for model in models]
        fitted += [xclf.SVMClassifier(random_state=0).partial_fit(x, names, np.unique(names))]
        for model in fitted:
            path = Path(folder) / "m.safetensors"
            model.save(path)
            found += [
                Source(kind, path.name, {path.name: path.read_bytes()}, path.name)
                for kind in ("model", "model, signed")
            ]
    return found


_NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**40, 255, 65536)


def mutate(source: Source, r: random.Random, times: int) -> dict[str, bytes]:
    """The files of `source` with `times` changes to one of them."""
    data = source.files[source.changed]
    if source.kind == "model, signed":
        changed = resigned(data, r, times)
    elif source.changed.endswith(".gz") and r.random() < 0.5:
        changed = gzip.compress(changed_bytes(gzip.decompress(data), r, times), 1)
    elif source.kind == "npz" and r.random() < 0.6:
        changed = _rezipped(data, r, times)
    else:
        changed = changed_bytes(data, r, times)
    return source.files | {source.changed: changed}


def changed_bytes(data: bytes, r: random.Random, times: int) -> bytes:
    """`data` after bit flips, cuts, splices, numbers over numbers, digits over digits."""
    raw = bytearray(data)
    for _ in range(times):
        # Headers and footers hold the lengths.
        at = r.randrange(len(raw)) if r.random() < 0.4 else r.randrange(min(len(raw), 256))
        at = len(raw) - 1 - at if r.random() < 0.3 else at
        kind = r.randrange(8)
        if kind == 0:
            raw[at] ^= 1 << r.randrange(8)
        elif kind == 1:
            raw[at] = r.choice((0, 255, 127, 128, r.randrange(256)))
        elif kind == 2:
            width, order = r.choice((1, 2, 4, 8)), r.choice(("little", "big"))
            number = r.choice(_NUMBERS) % 256**width
            raw[at : at + width] = number.to_bytes(width, order)
        elif kind == 3:
            del raw[at:]
        elif kind == 4:
            del raw[at : at + r.randrange(1, 64)]
        elif kind == 5:
            start = r.randrange(len(raw))
            raw[at:at] = raw[start : start + r.randrange(1, 64)]
        elif kind == 6:
            digits = [k for k, byte in enumerate(raw[:4096]) if 48 <= byte <= 57]
            if digits:
                place = r.choice(digits)
                raw[place : place + 1] = str(r.choice(_NUMBERS)).encode()
        else:
            raw += bytes(r.randrange(256) for _ in range(r.randrange(1, 32)))
        if not raw:
            break
    return bytes(raw)


def _rezipped(data: bytes, r: random.Random, times: int) -> bytes:
    """An archive with sound checksums around a changed member: the reader below sees the change."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = r.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, changed_bytes(content, r, times) if name == chosen else content)
    return buffer.getvalue()


def resigned(data: bytes, r: random.Random, times: int) -> bytes:
    """A model file with other metadata or arrays, and a digest that is right."""
    from safetensors.numpy import load, save

    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])["__metadata__"]
    arrays, description = load(data), json.loads(header["xclf"])
    for _ in range(times):
        if r.random() < 0.8:
            description = _changed_json(description, r)
        else:
            name = r.choice(sorted(arrays))
            arrays[name] = _changed_array(arrays[name], r)
    body = json.dumps(description)
    sha = hashlib.sha256(body.encode(errors="surrogatepass"))
    for name in sorted(arrays):
        array = arrays[name]
        sha.update(f"{name}{array.dtype.str}{array.shape}".encode())
        sha.update(array.tobytes())
    return bytes(save(arrays, metadata={**header, "xclf": body, "sha256": sha.hexdigest()}))


def _changed_array(array: np.ndarray, r: random.Random) -> np.ndarray:
    kind = r.randrange(4)
    if kind == 0:
        return np.ascontiguousarray(array[:0] if r.random() < 0.5 else array[1:])
    if kind == 1:
        with np.errstate(all="ignore"):
            return array.astype(r.choice(("float64", "float16", "int64", "bool")))
    if kind == 2:
        return np.ascontiguousarray(array[None] if r.random() < 0.5 else array.reshape(-1))
    with np.errstate(all="ignore"):
        return np.full_like(array, r.choice((np.nan, np.inf, 1e30)))


_VALUES = (None, True, -1, 0, 10**30, 1.5, "", "SoftmaxClassifier", "<U1000000000", "O", "V8")
_MORE_VALUES = ([], {}, [[]], {"float": "nan"}, {"float": "x"}, {"dtype": "<i8", "values": [1, 2]})


def _changed_json(value: Any, r: random.Random) -> Any:
    """One entry somewhere in `value`, replaced, removed or added."""
    entries = list(value) if isinstance(value, dict) else range(len(value))
    if not entries:
        return r.choice((*_VALUES, *_MORE_VALUES))
    value = value.copy()
    key = r.choice(list(entries))
    if isinstance(value[key], dict | list) and r.random() < 0.8:
        value[key] = _changed_json(value[key], r)
    elif r.random() < 0.15:
        del value[key]
    elif isinstance(value, dict) and r.random() < 0.1:
        value["__class__" if r.random() < 0.5 else "callbacks"] = COMMAND
    else:
        value[key] = r.choice((*_VALUES, *_MORE_VALUES))
    return value

"""Files of named tensors, pairs and shards of files, and PyTorch's data sets."""

from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
from data_cases import refused

from xclf.data import load

X = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
Y = np.arange(12) % 3
#: bfloat16 keeps the upper half of float32: these are X's, and float32 of them.
BITS = (X.view(np.uint32) >> 16).astype(np.uint16)
ROUNDED = (BITS.astype(np.uint32) << 16).view(np.float32)


def same(data, x=X, y=Y):
    np.testing.assert_array_equal(data.x, x)
    assert data.x.dtype == x.dtype
    np.testing.assert_array_equal(data.y, y)


def safetensors_file(path, tensors):
    """A file by its specification: arrays and names of their dtypes."""
    header, body = {}, b""
    for name, (array, dtype) in tensors.items():
        end = len(body) + array.nbytes
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(body), end]}
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def test_safetensors(tmp_path):
    path = tmp_path / "f.safetensors"
    safetensors.numpy.save_file({"X": X, "y": Y}, path)
    same(load(path))
    assert isinstance(load(path).x, np.memmap)
    safetensors.numpy.save_file({"train": X.astype(np.float16), "classes": Y}, path)
    same(load(path, x_name="train", y_name="classes"), X.astype(np.float16))
    assert "classes, train" in refused(path, "no array 'X'; it holds").replace("train, c", "c")
    safetensors_file(path, {"X": (BITS, "BF16"), "y": (Y, "I64")})
    same(load(path), ROUNDED)
    refused(path, "more than max_memory", max_memory=4 * X.size - 1)
    safetensors_file(path, {"X": (X.view(np.uint8), "F8_E4M3"), "y": (Y, "I64")})
    refused(path, r"\(X\): dtype F8_E4M3 is not read")
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "damaged, cut short")


def test_bfloat16_of_numpy(tmp_path):
    """For NumPy it is two bytes without a name."""
    np.save(tmp_path / "x.npy", BITS.view("V2"))
    np.save(tmp_path / "y.npy", Y)
    same(load(f"{tmp_path}/x.npy,{tmp_path}/y.npy"), ROUNDED)
    refused(f"{tmp_path}/x.npy,{tmp_path}/y.npy", "save it as float16", max_memory=100)
    np.savez(tmp_path / "a.npz", X=BITS.view("V2"), y=Y)
    same(load(tmp_path / "a.npz"), ROUNDED)


def test_pytorch_files(tmp_path):
    torch = pytest.importorskip("torch")
    path, x, y = tmp_path / "f.pt", torch.from_numpy(X), torch.from_numpy(Y)
    torch.save({"X": x, "y": y, "epoch": 3}, path)
    same(load(path))
    torch.save((x.bfloat16(), y), path)
    np.testing.assert_allclose(load(path).x, X, rtol=2.0**-8)  # to the nearest
    torch.save({"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]}, path)
    same(load(path).test, X[:2], Y[:2])
    torch.save({"X": x[:1].expand(10**8, 4), "y": y}, path)  # one row, said to be many
    refused(path, "more than max_memory", max_memory="10MB")
    torch.save({"X": x, "y": y}, path, _use_new_zipfile_serialization=False)
    same(load(path))
    refused(path, "more than max_memory", max_memory=100)
    torch.save(x, path)
    np.testing.assert_array_equal(load(path, need_labels=False).x, X)
    refused(path, "no array 'y'")
    torch.save(y, tmp_path / "y.pt")
    same(load(f"{path},{tmp_path / 'y.pt'}"))
    np.save(tmp_path / "y.npy", Y)
    same(load(f"{path},{tmp_path / 'y.npy'}"))
    torch.save([1, 2, 3], path)
    refused(path, "holds a list")
    torch.save({"X": print}, path)
    refused(path, "more than tensors, which only running a program could restore")


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["X"], file["y"] = X, Y
        file.create_dataset("packed/X", data=X, compression="gzip")
        file["packed/y"] = np.array(["a", "b", "c"], dtype=object)[Y]
        np.save(tmp_path / "secret.npy", X)
        file["link"] = h5py.ExternalLink("elsewhere.h5", "/X")
        file.create_dataset(
            "out", X.shape, X.dtype, external=[(str(tmp_path / "secret.npy"), 0, X.nbytes)]
        )
    same(load(path))
    assert isinstance(load(path).x, np.memmap)
    packed = load(path, x_name="packed/X", y_name="packed/y")
    same(packed, y=np.array(["a", "b", "c"])[Y])
    refused(path, "more than max_memory", x_name="packed/X", max_memory=X.nbytes - 1)
    refused(path, "no array 'link'", x_name="link")
    refused(path, "its numbers are in other files", x_name="out")
    path.write_bytes(path.read_bytes()[:500])
    refused(path, "damaged, cut short")


def test_several_files(tmp_path):
    for k in range(3):
        part = slice(4 * k, 4 * k + 4)
        np.savez(tmp_path / f"{k}.npz", X=X[part], y=Y[part])
        np.save(tmp_path / f"x_{k}.npy", X[part])
        np.save(tmp_path / f"y_{k}.npy", Y[part])
    same(load(tmp_path))
    same(load(f"{tmp_path}/*.npz"))
    pairs = f"{tmp_path}/x_*.npy,{tmp_path}/y_*.npy"
    same(load(pairs))
    refused(pairs, "more than max_memory", max_memory=X.nbytes - 1)
    (tmp_path / "0.npz").rename(tmp_path / "test-0.npz")
    (tmp_path / "1.npz").rename(tmp_path / "train-1.npz")
    (tmp_path / "2.npz").rename(tmp_path / "train-2.npz")
    same(load(tmp_path), X[4:], Y[4:])
    same(load(tmp_path).test, X[:4], Y[:4])
    np.savez(tmp_path / "train-3.npz", X=X[:, :3], y=Y)
    refused(tmp_path, r"train-3.npz: has 3 columns, .*train-1.npz 4")
    np.savez(tmp_path / "train-3.npz", X=X, y=Y.astype(str))
    refused(tmp_path, "numbers in some files and text in others")
    (tmp_path / "y_2.npy").unlink()
    refused(pairs, "found 3 of rows and 2 of labels")


def test_json_lines(tmp_path):
    path = tmp_path / "f.jsonl"
    rows = [
        {"e": row.tolist(), "label": f"c{k}"} for row, k in zip(X.astype(float), Y, strict=True)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    same(load(path), X.astype(float), np.array([f"c{k}" for k in Y]))
    refused(path, "more than max_memory", max_memory=100)
    path.write_text('{"a": 1')
    refused(path, "damaged, cut short")


class _Items:
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, number):
        return self.items[number]


def test_data_sets_of_pytorch():
    same(load(_Items([(x, int(y)) for x, y in zip(X, Y, strict=True)])))
    refused(_Items([(X[0], 1), X[1]]), "item 1 is not a pair")
    refused(_Items([(X[0], 1), (X[1, :3], 1)]), r"item 1 has features \(3,\)")
    refused(_Items([]), "has no items")
    refused(_Items([(X[0], 1)] * 1000), "more than max_memory", max_memory=1000)
    refused(5, "or a data set of PyTorch, got int")
    torch = pytest.importorskip("torch")
    whole = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    same(load(whole))
    same(load(torch.utils.data.Subset(whole, [5, 2])), X[[5, 2]], Y[[5, 2]])


def test_labels_of_several_tasks(tmp_path):
    both = np.stack([Y, 1 - Y % 2], axis=1)
    np.savez(tmp_path / "a.npz", X=X, y=both)
    same(load(tmp_path / "a.npz", several=True), y=both)
    refused(tmp_path / "a.npz", r"have shape \(12, 2\); for one-hot rows .*xclf probe")
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", both)
    same(load(f"{tmp_path}/x.npy,{tmp_path}/y.npy", several=True), y=both)
    np.save(tmp_path / "y.npy", np.where(both, 1.0, np.nan))
    refused(f"{tmp_path}/x.npy,{tmp_path}/y.npy", "label 1 is missing", several=True)
    lines = [f"{a},{b},k{c}" for a, b, c in zip(X[:, 0].tolist(), Y, Y % 2, strict=True)]
    (tmp_path / "a.csv").write_text("\n".join(["a,b,c", *lines]))
    data = load(tmp_path / "a.csv", label=["b", "c"])
    assert data.task_names == ("b", "c")
    assert data.y.tolist() == [[str(b), f"k{b % 2}"] for b in Y.tolist()]
    assert data.x.shape == (12, 1)
    refused(tmp_path / "a.csv", "no column 'd'; columns: a, b, c", label=["b", "d"])

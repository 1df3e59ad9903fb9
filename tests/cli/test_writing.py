"""Files that the shell writes: modes, links, full disks, and what killed processes leave."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import numpy as np
import pytest
from cli_cases import blobs, write_npz
from process_cases import Copy, ended

import xclf
from xclf._atomic_write import atomic_write, temporary_path
from xclf.cli import run


@pytest.fixture
def files(shell) -> dict[str, tuple]:
    """Commands that write a file, by its name."""
    write_npz("t.npz")
    xclf.SoftmaxClassifier().fit(*blobs()).save("m")
    predict = ("predict", "m", "t.npz", "--out")
    return {
        "new": ("train", "t.npz", "--max-iter", "2", "--out", "new"),
        "p.npy": (*predict, "p.npy"),
        "p.csv": (*predict, "p.csv", "--proba"),
        "p.parquet": (*predict, "p.parquet"),
        "m.png": ("plot", "m", "--out", "m.png"),
    }


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_a_file_keeps_its_mode_and_a_link_its_place(shell, files):
    Path("away").mkdir()
    for name, command in files.items():
        before = names()
        there, link = Path("away", name), Path(name)
        there.write_bytes(b"old")
        there.chmod(0o600)
        link.symlink_to(there)
        shell.good(*command)
        assert link.is_symlink()
        assert stat.S_IMODE(there.stat().st_mode) == 0o600
        assert there.read_bytes() != b"old"
        link.unlink()
        there.rename(link)
        link.chmod(0o640)
        shell.good(*command)
        assert stat.S_IMODE(link.stat().st_mode) == 0o640
        assert names() == sorted([*before, name])


def test_a_new_file_has_the_mode_of_any_new_file(shell, files):
    Path("any").touch()
    for name, command in files.items():
        shell.good(*command)
        assert Path(name).stat().st_mode == Path("any").stat().st_mode


def test_a_link_to_a_file_that_is_not_there_yet(shell, files):
    Path("new").symlink_to("later")
    shell.good(*files["new"])
    assert Path("new").is_symlink()
    assert xclf.load("later").n_features_in_ == 4
    Path("p.csv").symlink_to("nowhere/p.csv")
    assert "there is no folder" in shell.fails(*files["p.csv"])


def test_parts_of_killed_processes_are_removed_by_the_next_write(shell, files):
    for name, command in files.items():
        part = temporary_path(Path(name))
        others = [
            temporary_path(Path(f"x{name}")),
            Path(f".{name}.part"),
            Path(f".{name}.abc.part"),
        ]
        for path in (part, *others):
            path.touch()
        assert run(list(command)) == 0
        assert not part.exists()
        for path in others:
            path.unlink()


def test_a_part_that_another_process_is_writing_stays(tmp_path):
    target = tmp_path / "m"
    with atomic_write(target) as first:
        first.write_bytes(b"first")
        with atomic_write(target) as second:
            second.write_bytes(b"second")
        assert target.read_bytes() == b"second"
        assert first.exists()
    assert target.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_names_the_file_and_leaves_the_old_one(tmp_path):
    target = tmp_path / "m"
    target.write_bytes(b"old")
    with pytest.raises(OSError, match=r"No space.*/m'$"), atomic_write(target):
        raise OSError(28, "No space left on device")
    with (
        pytest.raises(FileNotFoundError, match=r"nowhere/m'$"),
        atomic_write(tmp_path / "nowhere" / "m"),
    ):
        pass
    with pytest.raises(FileNotFoundError, match="another"), atomic_write(target):
        raise FileNotFoundError(2, "No such file", "another")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def failures(commands: list[list[str]], most_bytes: int | None = None) -> list[str]:
    """The messages of commands that all end with status 2, each in a process of its own.

    most_bytes : the size at which a file can grow no more, as on a full disk
    """
    lines = []
    for command in commands:
        status, _, err = ended(Copy(Path.cwd(), *command, most_bytes=most_bytes))
        assert status == 2, err
        lines += [line for line in err.splitlines() if line.startswith("xclf: ")]
    assert len(lines) == len(commands)
    return lines


def test_a_disk_that_fills_is_one_line_and_leaves_nothing(shell, files):
    for name in files:
        Path(name).write_bytes(b"old")
    before = names()
    for line, name in zip(failures(list(files.values()), 150), files, strict=True):
        assert line.startswith("xclf: ")
        assert "File too large" in line, name
        assert Path(name).read_bytes() == b"old"
    assert names() == before


@pytest.mark.long  # the limit on the size of a file, above, ends writes at the same places
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_small_disk(shell, tmp_path):
    x, y = blobs(rows=20_000)
    np.savez("t.npz", X=x, y=y)
    shell.good("train", "t.npz", "--max-iter", 1, "--out", "m")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        outputs = [str(disk / f"p{suffix}") for suffix in (".npy", ".csv", ".parquet")]
        predict = ["predict", "m", "t.npz", "--proba", "--out"]
        for line in failures([[*predict, output] for output in outputs]):
            assert line.startswith("xclf: ")
            assert "No space left on device" in line
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", disk], check=True)

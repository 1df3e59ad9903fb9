"""The guide: every example runs, every link and number leads somewhere, and the page works."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from cli_cases import Shell
from data_cases import write_cifar
from sklearn import datasets
from sklearn.datasets import load_digits, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Bunch

import xclf
from xclf.cli import app
from xclf.cli import run as run_command
from xclf.report.guide import PAGES, guide, pages

ROOT = Path(__file__).parents[2]
HOME = Path(xclf.__file__).parent / "guide"
RESULTS = ROOT / "bench" / "results"
names = pytest.mark.parametrize("name", [page.name for page in pages()])
#: Pages with tests of their own, whose examples need more than files of rows.
ELSEWHERE = {"cluster", "text", "probe"}


def blocks(name: str) -> list[tuple[str, str]]:
    """(language, code) of a page."""
    text = (HOME / f"{name}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    """The files that examples name."""
    home = tmp_path_factory.mktemp("rows")
    flowers = load_iris()
    lines = [
        ",".join([str(100 + k), *map(str, x), flowers.target_names[t]])
        for k, (x, t) in enumerate(zip(flowers.data, flowers.target, strict=True))
    ]
    table = ["id,sepal length,sepal width,petal length,petal width,species", *lines]
    (home / "flowers.csv").write_text("\n".join(table) + "\n")
    (home / "new.csv").write_text("\n".join(table[:20]) + "\n")
    write_cifar(home / "cifar-10-batches-bin")
    X, y = load_digits(return_X_y=True)
    xclf.SoftmaxClassifier(reg=1e-3).fit(X / 16, y).save(home / "digits.safetensors")
    xclf.SoftmaxClassifier(reg=1e-3).fit(X / 16, y).save(home / "head.safetensors")
    data, out = str(home / "flowers.csv"), str(home / "flowers.safetensors")
    assert run_command(["train", data, "--label", "species", "--id", "id", "--out", out, "-q"]) == 0
    return home


def few_digits(**options):
    """`load_digits` with a quarter of the rows: the figures of the examples have other tests."""
    found = load_digits(**options)
    if options.get("return_X_y"):
        return tuple(part[:450] for part in found)
    return Bunch(**found | {name: found[name][:450] for name in ("data", "target", "images")})


@names
def test_every_block_says_its_language(name):
    assert {language for language, _ in blocks(name)} <= {"python", "sh", "toml"}


@pytest.mark.parametrize("name", [p.name for p in pages() if p.name not in ELSEWHERE])
def test_the_examples_run(name, rows, tmp_path, monkeypatch, capsys):
    """In the order of the page: what one makes the next may use."""
    shutil.copytree(rows, tmp_path, dirs_exist_ok=True)
    shell, scope = Shell(capsys, tmp_path, monkeypatch), {"__name__": "__main__"}
    if name != "first-fit":  # which counts its rows
        monkeypatch.setattr(datasets, "load_digits", few_digits)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    kept = {key for key in sys.modules if key.partition(".")[0] == "cs231n"}
    for language, code in blocks(name):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            if language == "python":
                if "import torch" in code:
                    pytest.importorskip("torch")
                exec(compile(code, f"{name}.md", "exec"), scope)
            elif language == "toml":
                (tmp_path / "xclf.toml").write_text(code)
                shell.good("train", "digits", "--max-iter", 2)
                (tmp_path / "xclf.toml").unlink()
            else:
                for line in code.strip().splitlines():
                    run(shell, line, monkeypatch)
    for key in [key for key in sys.modules if key.partition(".")[0] == "cs231n"]:
        if key not in kept:
            del sys.modules[key]


def test_the_examples_of_the_readme_run(rows, tmp_path, monkeypatch, capsys):
    """Those that need neither a GPU nor an installation."""
    shutil.copytree(rows, tmp_path, dirs_exist_ok=True)
    shell = Shell(capsys, tmp_path, monkeypatch)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    python = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert len(python) == 3
    for code in python:
        compile(code, "README.md", "exec")
        if "cupy" not in code:
            exec(code, {})
    for code in re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in code.splitlines():
            if line.startswith("xclf "):
                run(shell, line, monkeypatch)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target


def run(shell: Shell, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the shell: commands of xclf run here; of others the names are looked up."""
    words = shlex.split(line.partition("#")[0])
    if words[:1] == ["cat"]:
        pipe = words.index("|")
        with Path(words[1]).open(newline="") as file, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", file)
            shell.good(*words[pipe + 2 : words.index(">")])
        return
    while words and re.fullmatch(r"XCLF_\w+=\S+", words[0]):
        monkeypatch.setenv(*words.pop(0).split("="))
    if words[:3] == ["python", "-m", "bench"]:
        known = (ROOT / "bench" / "__main__.py").read_text() + " ".join(
            path.stem for path in (ROOT / "bench").rglob("*.py")
        )
        assert words[3] in known
        return
    if words[:1] == ["bench/gpu.sh"]:
        assert (ROOT / words[0]).is_file()
        return
    assert words[0] == "xclf", line
    if words[1:2] == ["export"] and any(word.endswith(".onnx") for word in words):
        pytest.importorskip("onnx")
    if words[1:2] == ["export"] and any(word.endswith(".pt") for word in words):
        pytest.importorskip("torch")
    if words[1:2] == ["plot"] or "--plot" in words:
        pytest.importorskip("matplotlib")
    if words[1] in ("train", "sweep", "probe"):  # small: of the figures other tests speak
        words += ["--max-iter", "3"]
        words = [re.sub(r"^(\S+:\S+):\d+$", r"\1:4", word) for word in words]
    if words[1] == "probe" and not {"--reg", "--protocol"} & set(words):
        words += ["--reg", "1e-3,1e-1"]
    result = shell(*words[1:])
    assert result.status in (0, 1 if "--min-accuracy" in words else 0), (line, result.err)


@names
def test_links_lead_to_pages_and_files(name):
    text = (HOME / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not re.match(r"[a-z]+:", target):
            path = target.partition("#")[0]
            assert not path or (HOME / path).exists(), target


@names
def test_results_that_a_page_cites_are_there(name):
    text = (HOME / f"{name}.md").read_text(encoding="utf-8")
    for cited in re.findall(r"bench/results/([\w.*{},-]+)", text):
        assert list(RESULTS.glob(cited.rstrip(".,"))), cited


def test_commands_and_options_that_the_guide_names_exist():
    text = "\n".join(page.text for page in pages())
    commands = {command.callback.__name__ for command in app.registered_commands}
    assert set(re.findall(r"`xclf (\w+)", text)) - {"COMMAND"} <= commands
    source = "".join(path.read_text() for path in (Path(xclf.__file__).parent / "cli").glob("*.py"))
    source += "".join(path.read_text() for path in (ROOT / "bench").rglob("*.py"))
    for option in set(re.findall(r"`--([a-z][a-z-]+)", text)):
        assert f"--{option}" in source or option.replace("-", "_") in source, option


def test_the_one_file_has_every_page_and_no_link_that_leads_nowhere():
    html = guide()
    found = set(re.findall(r'id="([^"]+)"', html))
    assert {page.name for page in pages()} <= found
    assert not set(re.findall(r'href="#([^"]+)"', html)) - found
    assert [page.name for page in pages()][:3] == list(PAGES[:3])
    assert "<script src" not in html
    assert "http-equiv" in html


def test_words_of_a_page_are_text(monkeypatch):
    page = type(pages()[0])("x", "x", "# x\n\n<script>alert(1)</script> [a](javascript:alert(1))\n")
    assert "<script" not in page.html
    assert "href" not in page.html


def test_the_shell_prints_and_writes_it(capsys, tmp_path, monkeypatch):
    shell = Shell(capsys, tmp_path, monkeypatch)
    assert "sweeps" in shell.good("guide", "--text")
    assert "geomspace" in shell.good("guide", "sweeps.md", "--text")
    shell.good("guide", "--out", "g.html")
    assert Path("g.html").read_text(encoding="utf-8") == guide()
    assert "there is no page 'swips'; pages: first-fit" in shell.fails("guide", "swips")
    where = shell.good("guide", "glossary")
    assert where.startswith("open file://")
    assert where.strip().endswith("#glossary")


def test_the_numbers_of_results_are_json():
    for path in RESULTS.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))

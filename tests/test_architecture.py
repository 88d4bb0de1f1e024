"""The structure of the tree, as data: rings, adapters, sizes, and the package map."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("streamer", "consumers", "producers", "models")
SOURCES = sorted(
    path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
    if "_gen" not in path.parts and not any(parent.is_symlink() for parent in path.parents)
)

# An import may only point inward. What is not named is ring 3, which sees all.
RING_0 = {
    "", "answers", "archive_manifest", "arrays", "batch", "config", "dataset", "embeddings", "errors", "events", "freshness", "generations", "kafka_connection", "kafka_login", "kernel", "parquet", "protocols", "seed", "vector_file",
}  # fmt: skip
RING_1 = {"consumers", "producers", "models"}
RING_2 = {
    "archive", "archive_rows", "archiver", "categories", "churn", "dead_letters", "decoder", "dedupe",
    "drift", "encoder", "engine", "erasure", "gate", "history", "items", "kin", "learners", "ledger",
    "log", "memory", "metrics", "monitor", "occasions", "profiles", "receipts", "recommend", "refeeding", "regret",
    "renormaliser", "rerank", "rocks", "shadow", "stability", "standing", "state", "training_process", "users",
}  # fmt: skip

# Each third-party library behind its adapter.
ADAPTERS = {
    "kafka": {"consumers/kafka.py", "producers/kafka.py"},
    "rocksdict": {"streamer/storage/rocks.py"},
    "river": {"streamer/monitoring/drift.py"},
    "prometheus_client": {"streamer/monitoring/metrics.py"},
    "numba": {"streamer/core/kernel.py"},
    "httpx": {"producers/client.py", "producers/http.py"},
    "connectrpc": {"streamer/api/"},
    "hypercorn": {"streamer/api/"},
    "click": {"streamer/cli/"},
    "rich": {"streamer/cli/"},
    "pyarrow": {"streamer/storage/archive/parquet.py"},
    "safetensors": {"streamer/renormalise/manifest.py"},
    "torch": {"models/offline/"},
    "matplotlib": {"streamer/report/figures.py"},
    "gensim": {"models/offline/clicks/word2vec.py"},
    "jinja2": {"streamer/report/page.py"},
    # Whatever runs what it reads: nowhere.
    "pickle": set(),
    "marshal": set(),
    "shelve": set(),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "streamer"
                else [node.module or ""]
            )


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    first = parts[1] if parts[0] == "streamer" else parts[0]
    return "" if first == "__init__" else first


def ring(module: str) -> int:
    return 0 if module in RING_0 else 1 if module in RING_1 else 2 if module in RING_2 else 3


def allowed(importer: str, imported: str) -> bool:
    if ring(importer) == 1:
        return ring(imported) == 0 or imported == importer
    if ring(importer) == 2:
        return ring(imported) in (0, 2)
    return ring(imported) <= ring(importer)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_point_inward(path: Path) -> None:
    for found in imports(path):
        if found.split(".")[0] == "streamer":
            inner = found.split(".")[1] if "." in found else ""
            inner = "" if inner.startswith("__") else inner
            assert allowed(module_of(path), inner), f"{name(path)} imports {found}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_libraries_stay_behind_their_adapters(path: Path) -> None:
    for found in imports(path):
        places = ADAPTERS.get(found.split(".")[0])
        if places is not None:
            assert any(name(path).startswith(place) for place in places), f"{name(path)} imports {found}"


def test_modules_are_small() -> None:
    sizes = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: size for path, size in sizes.items() if size > 400} == {}


def test_the_front_page_stays_under_15_lines() -> None:
    tree = ast.parse((ROOT / "streamer/stream/engine.py").read_text())
    (step,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "step")
    assert (step.end_lineno or 0) - step.lineno + 1 <= 15


def test_constructors_take_at_most_8_parameters() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
                assert count <= 8, f"{name(path)}:{node.lineno} takes {count}"


def test_settings_have_at_most_20_fields_a_part() -> None:
    from streamer.core.settings import PARTS

    assert {part: len(kind.__struct_fields__) for part, kind in PARTS.items() if len(kind.__struct_fields__) > 20} == {}


def test_the_package_map_holds() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"streamer": "streamer", **{f"streamer.{p}": p for p in PACKAGES[1:]}}
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    real = {folder for folder in folders if not any(p.is_symlink() for p in (folder, *folder.parents))}
    dotted = {".".join(folder.relative_to(ROOT).parts) for folder in real}
    assert set(settings["packages"]) == {d if d.startswith("streamer") else f"streamer.{d}" for d in dotted}
    for package in PACKAGES[1:]:
        link = ROOT / "streamer" / package
        assert link.is_symlink()
        assert link.resolve() == ROOT / package


@pytest.mark.parametrize("package", PACKAGES[1:])
def test_the_bare_names_say_what_to_import(package: str) -> None:
    code = compile((ROOT / package / "__init__.py").read_text(), package, "exec")
    with pytest.raises(ImportError, match=rf"import streamer\.{package}, not {package}"):
        exec(code, {"__name__": package})


def test_help_imports_no_heavy_library() -> None:
    import subprocess
    import sys

    heavy = "{'torch', 'gensim', 'numba', 'river', 'kafka', 'pyarrow', 'scipy'}"
    code = f"import sys, streamer.cli as c\ntry: c.main(['--help'])\nexcept SystemExit: pass\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"

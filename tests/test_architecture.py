"""The structure of the tree, as data: rooms, adapters, sizes, and the package map."""

import ast
import graphlib
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
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
TESTS = sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

# For each room, the rooms that it may import from besides itself. The table has no circle, so a change in a room concerns only
# the rooms that import from it, directly or through others. Modules in no room (app, serve, cli, ...) may import from all.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "kafka": {"core"},
    "consumers": {"core", "kafka", "storage.archive"},
    "producers": {"core", "kafka"},
    "models": {"core"},
    "storage": {"core"},
    "monitoring": {"core", "storage"},
    "stream": {"core", "storage", "monitoring"},
    "storage.archive": {"core", "storage", "monitoring", "stream"},
    "serving": {"core", "models", "storage", "stream"},
    "renormalise": {"core", "models", "storage", "storage.archive", "monitoring", "stream", "serving"},
    "privacy": {"core", "storage", "storage.archive", "stream", "renormalise"},
    "study": {"core", "models", "storage", "monitoring", "stream", "serving", "renormalise"},
}
MODULES_A_ROOM = 15  # more than people take in at a glance
MANY = {"cli"}  # rooms with more: one file for each command
FOREIGN = {
    "_replace",
    "_asdict",
    "_sender",
}  # of other libraries: public methods of NamedTuple, and one of kafka-python that nothing public replaces
PUBLIC = {  # modules that plug-ins import, and the module behind each; streamer/__init__.py lists them as well
    "arrays": "core.arrays", "batch": "core.batch", "embeddings": "core.tables", "errors": "core.errors",
    "events": "core.events", "kernel": "core.kernel", "protocols": "core.protocols", "rebuild": "renormalise.rebuild",
}  # fmt: skip

# The only places that may import each third-party library.
ADAPTERS = {
    "kafka": {"consumers/kafka.py", "consumers/kafka_records.py", "producers/kafka.py"},
    "rocksdict": {"streamer/storage/rocks.py", "streamer/storage/salvage.py"},
    "crc32c": {"streamer/storage/wal.py"},
    "river": {"streamer/monitoring/drift.py"},
    "prometheus_client": {"streamer/monitoring/metrics.py"},
    "numba": {"streamer/core/kernel.py"},
    "httpx": {"producers/client.py", "producers/http.py"},
    "connectrpc": {"streamer/api/"},
    "h11": {"streamer/api/http/http1.py"},
    "h2": {"streamer/api/http/http2.py"},
    "hyperframe": {"streamer/api/http/http2.py"},
    "click": {"streamer/cli/"},
    "rich": {"streamer/cli/"},
    "pyarrow": {"streamer/storage/archive/parquet.py", "consumers/arrow.py"},
    "charset_normalizer": {"consumers/delimited/encoding.py"},
    "safetensors": {"streamer/renormalise/manifest.py"},
    "torch": {"models/offline/"},
    "matplotlib": {"streamer/study/report/figures.py"},
    "gensim": {"models/offline/clicks/word2vec.py"},
    "jinja2": {"streamer/study/report/page.py"},
    # Libraries that execute what they read are not allowed anywhere.
    "pickle": set(),
    "marshal": set(),
    "shelve": set(),
}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def dotted(path: Path) -> str:
    """The module's name below `streamer`: `core.events`; `core` for the room itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts[parts[0] == "streamer" :] if part != "__init__")


MODULES = {dotted(path): path for path in SOURCES}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All nodes of a file's syntax tree, the module first."""
    return list(ast.walk(ast.parse(path.read_text())))


def docstring(path: Path) -> str:
    return ast.get_docstring(nodes(path)[0]) or ""  # type: ignore[arg-type]


def imports(path: Path) -> Iterator[str]:
    """What a file imports: modules of ours as `streamer.core.events`, however they are imported."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            for alias in node.names:
                below = f"{module}.{alias.name}".removeprefix("streamer.")
                yield f"streamer.{below}" if below in MODULES else module


def room(module: str) -> str:
    """The room of a module; empty for a module in no room."""
    return next((room for room in sorted(ROOMS, key=len, reverse=True) if f"{module}.".startswith(f"{room}.")), "")


def modules_of(wanted: str) -> dict[str, Path]:
    """The modules directly in a room, without its `__init__` and its sub-packages."""
    return {
        name: path for name, path in MODULES.items() if path.name != "__init__.py" and name.rpartition(".")[0] == wanted
    }


# The tests below look at all files in one go, and name every place that breaks the rule: a test for each file would cost a second
# of each worker's start.


def test_a_room_imports_from_the_rooms_that_the_table_says() -> None:
    assert SOURCES
    wrong = []
    for path in SOURCES:
        mine = room(dotted(path))
        for found in imports(path):
            if mine and found.startswith("streamer."):
                other = room(found.removeprefix("streamer."))
                if other != mine and other not in ROOMS[mine]:
                    wrong.append(f"{name(path)} imports {found}")
    assert not wrong


def test_the_table_of_rooms_has_no_circle() -> None:
    below: set[str] = set()
    for one, seen in ROOMS.items():
        assert seen <= set(ROOMS)
        below |= {one}
    order = list(graphlib.TopologicalSorter(ROOMS).static_order())  # raises CycleError for a circle
    assert set(order) == below


def test_a_room_is_small_and_its_docstring_names_its_modules() -> None:
    rooms = {
        module: path for module, path in MODULES.items() if path.name == "__init__.py" and module not in {"", *MANY}
    }
    assert set(ROOMS) <= set(rooms)
    for wanted, path in rooms.items():
        found = modules_of(wanted)
        assert len(found) <= MODULES_A_ROOM, f"{wanted} has {len(found)} modules"
        missing = [module for module in found if f"`{module.rpartition('.')[2]}`" not in docstring(path)]
        assert not missing, f"the docstring of streamer.{wanted} does not name {', '.join(missing)}"


def test_private_names_stay_in_their_module() -> None:
    assert [place for path in SOURCES for place in foreign_private_names(path)] == []


def foreign_private_names(path: Path) -> Iterator[str]:
    """Where a file uses a private name that it does not define itself."""
    mine = set(FOREIGN)
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            mine.add(node.name)
        elif isinstance(node, ast.Attribute) and of_self(node):
            mine.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            mine.add(node.target.id)
    for node in nodes(path):
        names = [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
        for one in names:
            if one.startswith("_") and not one.startswith("__") and one not in mine:
                yield f"{name(path)}:{getattr(node, 'lineno', 0)} uses {one}"


def of_self(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def test_public_names_are_listed_and_are_what_their_home_has() -> None:
    said = docstring(ROOT / "streamer/__init__.py")
    for public, home in PUBLIC.items():
        assert f"`streamer.{public}`" in said
        there, here = import_module(f"streamer.{home}"), import_module(f"streamer.{public}")
        names = getattr(there, "__all__", [one for one in vars(there) if not one.startswith("_")])
        assert all(getattr(here, one) is getattr(there, one) for one in names)


def test_libraries_stay_behind_their_adapters() -> None:
    wrong = []
    for path in SOURCES:
        for found in imports(path):
            places = ADAPTERS.get(found.split(".")[0])
            if places is not None and not any(name(path).startswith(place) for place in places):
                wrong.append(f"{name(path)} imports {found}")
    assert not wrong


def test_modules_are_small() -> None:
    sizes = {name(path): len(path.read_text().splitlines()) for path in [*SOURCES, *TESTS]}
    assert {path: size for path, size in sizes.items() if size > 400} == {}


def test_the_front_page_stays_under_15_lines() -> None:
    tree = nodes(ROOT / "streamer/stream/engine.py")
    (step,) = (node for node in tree if isinstance(node, ast.FunctionDef) and node.name == "step")
    assert (step.end_lineno or 0) - step.lineno + 1 <= 15


def test_constructors_take_at_most_8_parameters() -> None:
    for path in SOURCES:
        for node in nodes(path):
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

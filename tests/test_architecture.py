"""Who may import whom: arrows point down, the core needs only JAX and its kin, no circles."""

import ast
import graphlib
import sys
from pathlib import Path

import pytest

import jaxalloc

PACKAGE = Path(jaxalloc.__file__).parent
ROOT = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_FUNCTION, REPEATED = 300, 50, 8  # lines
CORE = {"jax", "numpy", "jaxtyping"}
# Each room and the rooms it may use; "" is the map, `jaxalloc/__init__.py`.
ROOMS = {
    "numerics": set(),
    "backend": set(),
    "files": set(),
    "messages": set(),
    "tables": {"messages"},
    "times": {"messages", "tables"},
    "allocation": {"numerics", "backend"},
    "scheduling": {"numerics", "backend"},
    "calibration": {"numerics", "backend", "allocation"},
    "workloads": {"files", "messages", "allocation", "calibration"},
    "measurements": {"tables", "times", "calibration", "workloads"},
    "traces": {"messages", "tables", "times", "scheduling"},
    "sweep": {
        "backend",
        "files",
        "messages",
        "tables",
        "workloads",
        "traces",
        "allocation",
        "scheduling",
    },
    "cli": {
        "",
        "backend",
        "files",
        "messages",
        "tables",
        "times",
        "sweep",
        "workloads",
        "traces",
        "measurements",
        "calibration",
        "allocation",
        "scheduling",
    },
}
# The rooms of the allocation wing: each may use those before it, none those after.
WING = ["model", "solvers", "optimum", "queue", "decisions"]
LIBRARIES = {
    "numerics": CORE,
    "backend": CORE,
    "files": set(),
    "messages": set(),
    "tables": CORE | {"pyarrow"},
    "times": CORE | {"pyarrow"},
    "allocation": CORE | {"scipy"},  # inside of functions, see `test_import.py`
    "scheduling": CORE,
    "calibration": CORE,
    "measurements": CORE | {"pyarrow"},
    "workloads": CORE,
    "traces": CORE | {"pyarrow", "scipy"},
    "sweep": CORE | {"pydantic", "scipy", "pyarrow", "pandas", "xarray"},
    "cli": CORE | {"typer", "rich", "pyarrow", "matplotlib"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if not path.name.startswith("__"))


def imports(path):
    """Dotted names of all that a file imports, inside its functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("path", FILES, ids=module)
def test_arrows_point_down(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(path):
        first, *rest = name.split(".")
        if first != "jaxalloc":
            allowed = first in LIBRARIES[room] or first in sys.stdlib_module_names
            assert allowed, f"{room} may not import {first}"
            continue
        other = rest[0] if rest and rest[0] in ROOMS else ""
        assert other in ROOMS[room] | {room}, f"{room} may not import {name}"


def test_arrows_of_the_allocation_wing_point_down():
    for path in (PACKAGE / "allocation").rglob("*.py"):
        room = path.relative_to(PACKAGE / "allocation").parts[0]
        if room == "__init__.py":
            continue
        for name in imports(path):
            if name.startswith("jaxalloc.allocation."):
                other = name.split(".")[2]
                assert WING.index(other) <= WING.index(room), f"{room} may not import {name}"


def test_no_circles():
    known = {module(path): path for path in FILES}
    graph = {}
    for name, path in known.items():
        uses = {used if used in known else used.rpartition(".")[0] for used in imports(path)}
        graph[name] = (uses & set(known)) - {name}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert set(order) == set(known)


def test_no_file_is_long():
    long = {module(path): len(path.read_text().splitlines()) for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FILE} == {}


def statements(function):
    """Lines of a function's body; what it takes and its docstring do not count."""
    docstring = ast.get_docstring(function) is not None
    body = function.body[docstring:] or function.body
    return body[-1].end_lineno - body[0].lineno + 1


def test_no_function_is_long():
    long = {
        f"{module(path)}.{node.name}": statements(node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and statements(node) > LONGEST_FUNCTION
    }
    assert long == {}


def normalized(path):
    """The lines of a file that do something: no comments, docstrings, imports or blank lines."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(
            node
        ):
            node.body[0] = ast.Pass()
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return [
        line.strip() for line in ast.unparse(tree).splitlines() if line.strip() not in ("", "pass")
    ]


def test_no_block_stands_twice():
    seen, twice = {}, set()
    for path in [*FILES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py")]:
        lines = normalized(path)
        for at in range(len(lines) - REPEATED + 1):
            block = tuple(lines[at : at + REPEATED])
            there, before = seen.setdefault(block, (path, at))
            if there != path or before <= at - REPEATED:
                twice.add((there.name, path.name, block[0]))
    assert twice == set()

"""What a result was measured on: the commit, and the code without its words."""

import ast
import functools
import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def git(*words):
    """What git says of this repository; None where it is not one, or git objects."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return None if done.returncode else done.stdout.strip()


def commit():
    """The commit that runs, marked if the package itself has changes."""
    found, changes = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "jaxalloc")
    return (found or "unknown") + ("-modified" if changes else "")


def has_history():
    """Whether this folder is a repository of its own, with all of its commits."""
    top, shallow = git("rev-parse", "--show-toplevel"), git("rev-parse", "--is-shallow-repository")
    return bool(top) and Path(top).resolve() == ROOT.resolve() and shallow == "false"


def is_in_history(commit):
    return git("merge-base", "--is-ancestor", commit, "HEAD") is not None


def package_modules():
    """Every module of the package."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in (ROOT / "jaxalloc").rglob("*.py"))
    return sorted(".".join(path.parts).removesuffix(".__init__") for path in paths)


def source(module):
    """The file of a module of the package; None if it is gone."""
    path = ROOT.joinpath(*module.split("."))
    found = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in found if file.exists()), None)


def digest(modules):
    """Of the parsed source of modules, without comments and docstrings; None if one is gone."""
    trees = [tree_of(source(name)) if source(name) else None for name in modules]
    if None in trees:
        return None
    return hashlib.sha256(
        "\n".join(map(str, zip(modules, trees, strict=True))).encode()
    ).hexdigest()[:16]


@functools.cache
def tree_of(file):
    return repr(_words(ast.parse(file.read_text())))


def _words(node):
    """A syntax tree in words, the same in all versions of Python: what is empty is left out."""
    if isinstance(node, list):
        return [_words(child) for child in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    match node, fields.get("body"):
        case ast.JoinedStr(values), _:  # Python 3.12 ends some with an empty word
            fields["values"] = [v for v in values if getattr(v, "value", None) != ""]
        case _, [ast.Expr(ast.Constant(str())), *rest]:
            fields["body"] = rest
    return type(node).__name__, {k: _words(v) for k, v in fields.items() if v not in (None, [])}

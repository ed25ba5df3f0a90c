"""The page of the benchmarks is made of their results; a result says on what code it was made."""

import provenance
import pytest
import tables


def test_the_page_is_what_the_results_make():
    results = tables.read_results()
    assert tables.strangers(results) == {}
    written = tables.page(tables.TEMPLATE.read_text(), results)
    assert tables.PAGE.read_text() == written, "run: python benchmarks/tables.py"
    assert all(name in tables.TEMPLATE.read_text() for name in results)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", '"""Words."""\nx = 1  # words', True),
        ("def f():\n    return 1", 'def f():\n    """Words."""\n    return 1', True),
        ("x = 1", "x = 2", False),
        ("def f(x): return x", "def f(y): return y", False),
        ("x = [1]", "x = [1, 0]", False),
    ],
)
def test_a_digest_is_of_the_code_and_not_of_its_words(one, other, same, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    found = []
    for name, text in (("one", one), ("other", other)):
        (tmp_path / f"{name}.py").write_text(text)
        found.append(provenance.tree_of(provenance.source(name)))
    assert (found[0] == found[1]) == same
    assert provenance.digest(["one"]) != provenance.digest(["one", "other"])
    assert provenance.digest(["one", "gone"]) is None


def test_a_mark_says_whether_the_code_has_changed():
    modules = ["jaxalloc.files"]
    code = {"modules": modules, "digest": provenance.digest(modules)}
    assert tables.origin({"commit": "abc", "code": code}) == "measured at abc"
    for other in ({}, {"code": code | {"digest": None}}, {"code": code | {"digest": "0"}}):
        mark = tables.origin({"commit": "abc", **other})
        assert mark == "measured at abc, code changed since"

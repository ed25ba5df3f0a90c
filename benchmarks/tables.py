"""Makes `benchmarks/README.md` out of `tables.md` and the results.

    python benchmarks/tables.py [--check]

`tables.md` is the page with expressions in braces over the results (`{speed.rows[0].lanes:,}`), as
in an f-string. Behind the command of every result stands where its figures come from: the commit,
and whether the code that it ran has changed since. A result of a commit that is not in the history
is refused. `--check` compares the page with what would be written and writes nothing.
"""

import json
import re
import sys

import provenance

HERE = provenance.ROOT / "benchmarks"
PAGE, TEMPLATE = HERE / "README.md", HERE / "tables.md"
COMMAND = re.compile(r"`(?:JAXALLOC_DATA=… )?python benchmarks/(\w+)\.py[^`]*`(?= \|)")


class Record(dict):
    """A JSON object whose fields are attributes too."""

    __getattr__ = dict.__getitem__


def read_results():
    files = sorted((HERE / "results").glob("*.json"))
    return {file.stem: json.loads(file.read_text(), object_hook=Record) for file in files}


def row(rows, **wanted):
    """The one row with these fields."""
    (found,) = [r for r in rows if all(r[name] == value for name, value in wanted.items())]
    return found


def power(number, digits=1):
    """A small or large number as people write it: 3.2e-14."""
    head, exponent = f"{number:.{digits}e}".split("e")
    return f"{head}e{int(exponent)}"


def short(number):
    """Three digits, whole above a thousand."""
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def share(part):
    """In percent; "all" for nothing less."""
    return "all" if part == 1 else f"{part:.2%}"


def lines(rows, text, end="\n"):
    return end.join(text(one) for one in rows)


def feasible(found):
    """Share of the feasible and valid lanes that converge."""
    return found.status.CONVERGED / (found.status.CONVERGED + found.status.MAX_STEPS)


def latencies(found):
    return ", ".join(f"{found[name]:.1f}" for name in ("HindsightShortestFirst", "AMin", "AMax"))


def over(rows, policy):
    """Mean latency over that of hindsight, with one interval for all."""
    names = policy, "H-SF (hindsight)"
    one, best = (row(rows, bins=1, policy=name).mean_latency for name in names)
    return one / best


def coverage(found):
    shares = found.coverage.CONVERGED
    return ", ".join(f"{shares[name]:.1%}" for name in ("gain", "decay", "floor"))


def kernel_sets(rows):
    """Of every set and dtype: lanes, other statuses, and the largest distance of tokens."""
    for kind in dict.fromkeys((r.set, r.dtype) for r in rows):
        own = [r for r in rows if (r.set, r.dtype) == kind]
        apart = max(r.worst_relative_distance_of_tokens for r in own)
        yield *kind, sum(r.lanes for r in own), sum(r.other_status for r in own), apart


HELPERS = (row, power, short, share, lines, feasible, latencies, over, coverage, kernel_sets)


def origin(environment):
    """The commit of a result, and whether its code is that of today."""
    code = environment.get("code", {})
    fresh = code.get("digest") and code["digest"] == provenance.digest(code["modules"])
    return f"measured at {environment['commit']}" + ("" if fresh else ", code changed since")


def page(template, results):
    """The text of the page."""
    names = {**results, **{helper.__name__: helper for helper in (*HELPERS, origin)}}
    written = []
    for number, line in enumerate(template.splitlines(), 1):
        try:
            text = eval(f"f'''{line}'''", names)
        except Exception as error:
            raise SystemExit(f"{TEMPLATE.name}, line {number}: {error!r}") from error
        written.append(
            COMMAND.sub(
                lambda found: (
                    f"{found[0]}, {origin(results[found[1]].environment)}"
                    if found[1] in results
                    else found[0]
                ),
                text,
            )
        )
    return "\n".join(written) + "\n"


def strangers(results):
    """Results of commits that are not in the history; none can be told where there is no git."""
    if not provenance.has_history():
        return {}
    commits = {name: r.environment.commit.removesuffix("-modified") for name, r in results.items()}
    return {n: c for n, c in commits.items() if not provenance.is_in_history(c)}


def main():
    results = read_results()
    if refused := strangers(results):
        raise SystemExit(f"of commits that are not in the history: {refused}")
    text = page(TEMPLATE.read_text(), results)
    if "--check" not in sys.argv:
        PAGE.write_text(text)
    elif text != PAGE.read_text():
        raise SystemExit("benchmarks/README.md is not that of today: python benchmarks/tables.py")


if __name__ == "__main__":
    main()

"""Single damaged bytes in a small study: a verification accepts none, a resume none in a footer.

    python benchmarks/sweep_damages.py [--quick]

Every damage replaces one byte, anywhere in any file of the folder, by another. Verified is the
whole folder in the process, as `--verify` does. Where the byte is in a footer, in the digest beside
a part or in the manifest, the quick look of `--resume` is asked too; then, for a hundredth of all
damages, a whole `--resume --verify` is run, after which every file must be as it was.
"""

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path

import common
import jax
import numpy as np

from jaxalloc import sweep
from jaxalloc.sweep.folder import MANIFEST, inspect, read_manifest, verify
from jaxalloc.sweep.parts import seal_name

AXES = {"arrival_rate": "0.01:2:11:log", "accuracy_weight": "1:300:3:log"}
RESUMED = 100  # every so many damages


def kind_of(name, place, contents):
    """Which kind of byte that is."""
    if not name.endswith(".parquet"):
        return "manifest" if name == MANIFEST else "digest"
    footer = json.loads(contents[seal_name(name)])["footer_length"]
    return "footer" if place >= len(contents[name]) - footer else "data"


def verified(folder):
    """Whether a verification finds the folder as it was written."""
    try:
        return verify(folder) == (5, {})
    except ValueError:
        return False


def accepted(folder, manifest):
    """Whether the quick look of a resume finds nothing to solve."""
    try:
        found = inspect(folder, manifest, whole=False)
    except ValueError:
        return False
    return not found.damaged and len(found.parts) == 5 and read_manifest(folder) is not None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="1,000 damages; writes no report")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    rng = np.random.default_rng(34)
    folder = Path(tempfile.mkdtemp(prefix="damages-")) / "study"
    plan = sweep.plan("qwen3-8b", AXES)
    sweep.run(plan, folder, chunk_size=8)
    contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    manifest = read_manifest(folder)
    places = [(name, place) for name, data in contents.items() for place in range(len(data))]
    tried, by_verify, by_resume = Counter(), Counter(), Counter()
    mended, began = 0, time.perf_counter()
    for number in range(1_000 if quick else 100_000):
        name, place = places[rng.integers(len(places))]
        broken = bytearray(contents[name])
        broken[place] ^= rng.integers(1, 256)
        (folder / name).write_bytes(broken)
        kind = kind_of(name, place, contents)
        tried[kind] += 1
        by_verify[kind] += verified(folder)
        by_resume[kind] += accepted(folder, manifest)
        if number % RESUMED == 0:
            sweep.run(plan, folder, resume=True, verify=True)
            mended += {path.name: path.read_bytes() for path in folder.iterdir()} == contents
        (folder / name).write_bytes(contents[name])
    document = {
        "bytes_of_the_study": len(places),
        "damages": tried.total(),
        "by_kind": dict(tried),
        "accepted_by_verify": dict(by_verify),
        "accepted_by_resume": dict(by_resume),
        "resumed_and_verified": -(-tried.total() // RESUMED),
        "then_as_it_was_byte_for_byte": mended,
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(document, indent=1))
    if not quick:
        common.save("sweep_damages", document)
    assert not by_verify.total(), "a verification accepted a damage"
    assert not any(by_resume[kind] for kind in ("footer", "digest", "manifest"))
    assert mended == document["resumed_and_verified"], "a damage was not mended"


if __name__ == "__main__":
    main()

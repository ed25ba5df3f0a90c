"""Single damaged bytes in a small study: a verification accepts none, a resume none in a footer.

    python benchmarks/sweep_damages.py [--quick]

Every damage replaces one byte, anywhere in any file of the folder, by another. Verified is the
whole folder in the process, as `--verify` does; the quick look of `--resume` is asked too; then,
for a hundredth of all damages, a whole `--resume --verify` is run, after which every file must be
as it was. `--quick`: 1,000 damages.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path

import common
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


def accepted(look):
    """Whether a look at the folder finds all of its five parts sound."""
    try:
        return look()
    except ValueError:
        return False


def measure(quick):
    rng, damages = np.random.default_rng(34), 1_000 if quick else 100_000
    counts = {name: Counter() for name in ("by_kind", "accepted_by_verify", "accepted_by_resume")}
    with tempfile.TemporaryDirectory() as name:
        folder, plan, mended = Path(name) / "study", sweep.plan("qwen3-8b", AXES), 0
        sweep.run(plan, folder, chunk_size=8)
        contents = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        manifest = read_manifest(folder)
        places = [(name, place) for name, data in contents.items() for place in range(len(data))]

        def quick_look():
            found = inspect(folder, manifest, whole=False)
            return not found.damaged and len(found.parts) == 5 and read_manifest(folder) is not None

        for number in range(damages):
            name, place = places[rng.integers(len(places))]
            broken = bytearray(contents[name])
            broken[place] ^= rng.integers(1, 256)
            (folder / name).write_bytes(broken)
            kind = kind_of(name, place, contents)
            counts["by_kind"][kind] += 1
            counts["accepted_by_verify"][kind] += accepted(lambda: verify(folder) == (5, {}))
            counts["accepted_by_resume"][kind] += accepted(quick_look)
            if number % RESUMED == 0:
                sweep.run(plan, folder, resume=True, verify=True)
                mended += {path.name: path.read_bytes() for path in folder.iterdir()} == contents
            (folder / name).write_bytes(contents[name])
    assert not counts["accepted_by_verify"].total(), "a verification accepted a damage"
    quiet = [counts["accepted_by_resume"][kind] for kind in ("footer", "digest", "manifest")]
    assert not any(quiet), "a resume accepted a damage that it can see"
    assert mended == damages // RESUMED, "a damage was not mended"
    return {
        "bytes_of_the_study": len(places),
        "damages": damages,
        **counts,
        "resumed_and_verified": damages // RESUMED,
        "then_as_it_was_byte_for_byte": mended,
    }


if __name__ == "__main__":
    common.main(__file__, measure)

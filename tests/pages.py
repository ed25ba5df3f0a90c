"""The pages, run: their programs print what stands below them, so do their commands.

`python tests/pages.py` runs every page and writes what it prints into it. In a page

    ```python …``` is a program, and a ```text …``` block after it its output;
    ```console …``` holds commands after `$ ` and what they print;
    an ellipsis in an output stands for anything.

All of a page runs in order in one process and one empty folder.
"""

import contextlib
import io
import math
import os
import re
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "jaxalloc").rglob("README.md")])
BLOCK = re.compile(r"^```(python|text|console)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*)\n", re.MULTILINE)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def agree(written, found):
    """Whether an output is what a page says: the same words, and numbers within 2 %."""
    parts = [part.split("…") for part in NUMBER.split(written)]
    number = f"({NUMBER.pattern})"
    pattern = number.join(r"[\s\S]*?".join(map(re.escape, part)) for part in parts)
    match = re.fullmatch(re.sub(r"(?:\\ |─)+", r"[ ─]+", pattern), found)
    return bool(match) and all(
        math.isclose(float(a.replace(",", "")), float(b.replace(",", "")), rel_tol=0.02)
        for a, b in zip(NUMBER.findall(written), match.groups(), strict=True)
    )


def printed(call):
    """What a call prints; without the spaces at the ends of lines."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        call()
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines()).strip("\n") + "\n"


def run_command(line):
    from jaxalloc.cli import main

    program, *words = shlex.split(line.replace("\\\n", " "))
    if program == "jaxalloc":
        assert main(words) == 0, line
    else:  # a script of the benchmarks
        assert program == "python", line
        sys.argv = [str(ROOT / words[0]), *words[1:]]
        runpy.run_path(sys.argv[0], run_name="__main__")


def run_page(page):
    """The text of a page with the outputs that it has now, where they are others."""

    def run_block(block):
        language, body = block.groups()
        if language == "python":
            outputs.append(printed(lambda: exec(compile(body, page.name, "exec"), {})))
        elif language == "text":
            body = _kept(body, outputs.pop())
        else:
            head, *pairs = COMMAND.split(body)
            assert not head, f"{page}: a console block begins with a command"
            body = "".join(
                f"$ {line}\n" + _kept(output, printed(lambda line=line: run_command(line)))
                for line, output in zip(pairs[::2], pairs[1::2], strict=True)
            )
        return f"```{language}\n{body}```"

    outputs = []
    text = BLOCK.sub(run_block, page.read_text())
    assert not [output for output in outputs if output.strip()], f"{page}: output without a block"
    return text


def _kept(written, found):
    return written if agree(written.strip("\n") + "\n", found) else found


def run_in_a_process(page, folder):
    """`run_page` in a process and a folder of its own."""
    search = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, "-W", "error", __file__, str(page)],
        cwd=folder,
        env=os.environ | {"COLUMNS": "100", "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.stdout.write(run_page(Path(sys.argv[1])))
    else:
        for one in PAGES:
            with tempfile.TemporaryDirectory() as folder:
                one.write_text(run_in_a_process(one, folder))

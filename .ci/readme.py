"""Run the README's two commands exactly as pasted, each in a fresh clone of its own.

python .ci/readme.py [FOLDER]: the checkout, by default the one that holds this file.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

NUMBER = 2


def commands(readme):
    """Shell blocks of the section "Two commands"."""
    section = re.search(r"^## Two commands$(.*?)(?=^## |\Z)", readme, re.M | re.S)
    found = re.findall(r"^```sh\n(.*?)^```$", section.group(1) if section else "", re.M | re.S)
    if len(found) != NUMBER:
        sys.exit(f"README.md has {len(found)} sh blocks under 'Two commands', not {NUMBER}")
    return found


def run(command, checkout):
    """Run a command in a fresh clone, and print the time that it took."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "sigprop"
        subprocess.run(["git", "clone", "--quiet", str(checkout), str(clone)], check=True)
        print(f"$ {command}", end="", flush=True)
        alone = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(["bash", "-c", command], cwd=clone, env=alone, check=False)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"exit code {done.returncode}; CPU minutes so far {(used[0] + used[1]) / 60:.1f}")
    sys.stdout.flush()
    return done.returncode


if __name__ == "__main__":
    where = Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[1]).resolve()
    for text in commands((where / "README.md").read_text()):
        if code := run(text, where):
            sys.exit(code)

"""`python -m jaxalloc`: the command line."""

import sys

from jaxalloc.cli import main

if __name__ == "__main__":
    sys.exit(main())

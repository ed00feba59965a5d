"""`python -m fireforget`."""

import sys

from fireforget.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m ringfence` is `ringfence`."""

from __future__ import annotations

from ringfence.cli import main

if __name__ == "__main__":
    main()

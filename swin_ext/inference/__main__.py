"""`python -m swin_ext.inference`, the same as `tools/segment.py`."""

import sys

from swin_ext.inference.command import main

if __name__ == '__main__':
    sys.exit(main())

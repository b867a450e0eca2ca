#!/usr/bin/python3 -I
"""The isthmus command. Its libraries stand in a folder of their own, so that they and Debian's do not meet."""

import sys

sys.path.insert(1, "/usr/lib/isthmus")

from isthmus.cli.main import main

sys.exit(main())

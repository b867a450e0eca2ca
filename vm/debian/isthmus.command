#!/usr/bin/python3 -I
"""The isthmus command. Its libraries stand in a folder of their own, so that they and Debian's do not meet; so does Envoy."""

import os
import sys

sys.path.insert(1, "/usr/lib/isthmus")
os.environ["PATH"] = f"/usr/lib/isthmus-envoy:{os.environ.get('PATH', os.defpath)}"

from isthmus.cli.main import main

sys.exit(main())

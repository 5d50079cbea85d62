"""The page of `ovdet serve` as a Space; the package `ovdet` lies beside this file."""

import os
import sys

from ovdet.cli.main import main

sys.argv = ["ovdet", "serve", "--host", "0.0.0.0", "--port", os.environ.get("PORT", "7860")]
main()

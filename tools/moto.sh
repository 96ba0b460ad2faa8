#!/bin/sh
# The pinned moto of build/tools, a copy of AWS: moto -p PORT.
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$here/moto:$here/python exec "${PYTHON:-python3}" -m moto.server "$@"

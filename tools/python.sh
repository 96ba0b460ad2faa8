#!/bin/sh
# Python with the pinned AWS clients of build/tools.
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$here/python exec "${PYTHON:-python3}" "$@"

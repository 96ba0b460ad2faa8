#!/bin/sh
# The pinned AWS CLI of build/tools, whatever else the machine has.
here=$(cd "$(dirname "$0")/.." && pwd)
PYTHONPATH=$here/python exec "${PYTHON:-python3}" -m awscli "$@"

"""What a Python client is made to do wrong, as the variable WRONG says in JSON:

{"clock": 600, "method": "POST", "contentType": "text/plain", "unsigned": true}

boto.py and the AWS CLI (as a plugin) load it. What it changes is signed.
"""

import datetime
import json
import os

import botocore.auth

wrong = json.loads(os.environ["WRONG"])
right = botocore.auth.get_current_datetime


def clock(*args, **kwargs):
    return right(*args, **kwargs) + datetime.timedelta(seconds=wrong.get("clock", 0))


def change(params, **_):
    params["method"] = wrong.get("method", params["method"])
    if "contentType" in wrong:
        params["headers"]["Content-Type"] = wrong["contentType"]


def awscli_initialize(events):
    botocore.auth.get_current_datetime = clock
    events.register("before-call.app-mesh", change)

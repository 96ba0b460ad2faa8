"""Runs App Mesh operations with boto3: a JSON line in, a JSON line out.

In:  {"op": "CreateMesh", "input": {...}}, or "all": true to page through a list.
Out: {"output": {...}}, {"count": 3} or {"error": {"code", "status", "message", "type"}}.
"""

import datetime
import json
import os
import sys

import boto3
from botocore import UNSIGNED, config, exceptions, xform_name

appmesh = boto3.client("appmesh")
if "WRONG" in os.environ:
    import wrong

    if wrong.wrong.get("unsigned"):
        appmesh = boto3.client("appmesh", config=config.Config(signature_version=UNSIGNED))
    wrong.awscli_initialize(appmesh.meta.events)
modeled = set(dir(appmesh.exceptions))


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    raise TypeError(f"{type(value)} in an answer")


def answer(request):
    name = xform_name(request["op"])
    try:
        if request.get("all"):
            pages = appmesh.get_paginator(name).paginate(**request["input"], PaginationConfig={"PageSize": 2})
            return {"count": len(list(pages.search(request["all"] + "[]")))}
        output = getattr(appmesh, name)(**request["input"])
    except exceptions.ClientError as e:
        own = type(e).__name__
        return {
            "error": {
                "code": e.response["Error"]["Code"],
                "message": e.response["Error"]["Message"],
                "status": e.response["ResponseMetadata"]["HTTPStatusCode"],
                "type": own if own in modeled and own != "ClientError" else "",
            }
        }
    metadata = output.pop("ResponseMetadata")
    assert metadata["RequestId"], metadata
    return {"output": output}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line)), default=plain), flush=True)

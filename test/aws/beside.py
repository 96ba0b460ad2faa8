"""Runs one scenario against two endpoints and prints what each answered, as JSON.

usage: beside.py SCENARIO FILES OURS THEIRS

A scenario is Python with call(operation, **input), client(service) and file(name)
of the folder FILES; its first line names the service as boto3 does. What an answer says that no two copies of a
service could say alike (times, ids, keys) is written as what it is.
"""

import datetime
import json
import re
import sys
import threading

import boto3
from botocore import UNSIGNED, config, exceptions, xform_name

ACCOUNT = "123456789012"
REGION = "us-east-1"

# Members whose values are nobody's to foresee.
OPEN = {
    "SecretAccessKey", "SessionToken", "NextToken", "nextToken", "Marker", "PackedPolicySize", "Serial",
    "SubjectKeyIdentifier", "CreatedAt", "UpdatedAt", "InstancesRevision", "OperationId", "PrivateKey",
    "Certificate", "CertificateChain", "Csr", "Checksum", "uid", "RequestId", "PaginationToken",
}
IDS = {"UserId", "GroupId", "RoleId", "PolicyId", "InstanceProfileId"}
MASKS = [
    (re.compile(r"\b(AKIA|ASIA|AIDA|AROA|AGPA|ANPA|AIPA)[A-Z0-9]{12,}"), r"\1…"),
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "UUID"),
    (re.compile(r"\b(ns|srv)-[a-z0-9]{8,}"), r"\1-…"),
    (re.compile(r"\ba-[a-z0-9]{12,}"), "a-…"),
    (re.compile(r"-----BEGIN [A-Z ]+-----.*", re.S), "PEM"),
    (re.compile(r"\b([0-9a-f]{2}:){7,}[0-9a-f]{2}\b"), "HEX"),
    (re.compile(r"\b[0-9a-f]{32,}\b"), "HEX"),
]


class Gone:
    """An answer that was not given, and all that stands in it."""

    def __getitem__(self, _):
        return self

    def get(self, *_):
        return self


def holds_gone(v):
    if isinstance(v, dict):
        return any(holds_gone(x) for x in v.values())
    if isinstance(v, (list, tuple)):
        return any(holds_gone(x) for x in v)
    return isinstance(v, Gone)


def plain(v, member=""):
    if isinstance(v, dict):
        return {k: plain(x, k) for k, x in v.items() if k != "ResponseMetadata"}
    if isinstance(v, (list, tuple)):
        return sorted((plain(x) for x in v), key=lambda x: json.dumps(x, sort_keys=True))
    if member in OPEN and v not in (None, ""):
        return "VALUE"
    if member in IDS and v:
        return "ID"
    if isinstance(v, datetime.datetime):
        return "TIME"
    if isinstance(v, bytes):
        return "BYTES"
    if isinstance(v, str):
        for pattern, name in MASKS:
            v = pattern.sub(name, v)
    return v


class Run:
    """One scenario at one endpoint."""

    def __init__(self, scenario, files, endpoint, key):
        self.files = files
        self.endpoint, self.key, self.steps = endpoint, key, []
        self.text = open(scenario).read()
        self.service = self.text.split("\n", 1)[0].lstrip("# ").strip()
        self.failed = None

    def client(self, service, key=None, unsigned=False):
        key = key or self.key
        if isinstance(key, Gone):
            return Gone()
        options = config.Config(
            inject_host_prefix=False, parameter_validation=False, retries={"max_attempts": 0},
            signature_version=UNSIGNED if unsigned else None,
        )
        return boto3.client(
            service, endpoint_url=self.endpoint, region_name=REGION, config=options, verify=False,
            aws_access_key_id=key[0], aws_secret_access_key=key[1], aws_session_token=key[2] if len(key) > 2 else None,
        )

    def call(self, operation, _client=None, **given):
        at = _client or self.own
        step = {"operation": operation}
        self.steps.append(step)
        if isinstance(at, Gone) or holds_gone(given):
            step["left"] = True
            return Gone()
        try:
            out = getattr(at, xform_name(operation))(**given)
            step["answer"] = plain(out)
            return out
        except exceptions.ClientError as e:
            step["code"] = e.response["Error"]["Code"]
            step["message"] = e.response["Error"]["Message"]
            step["status"] = e.response["ResponseMetadata"]["HTTPStatusCode"]
        except Exception as e:  # an answer that boto3 cannot read
            step["broken"] = "%s: %s" % (type(e).__name__, e)
        return Gone()

    def file(self, name):
        with open(self.files + "/" + name, "rb") as f:
            return f.read()

    def run(self):
        self.own = self.client(self.service)
        names = {"call": self.call, "client": self.client, "ACCOUNT": ACCOUNT, "REGION": REGION, "json": json, "file": self.file}
        try:
            exec(compile(self.text, self.service, "exec"), names)
        except Exception as e:
            self.failed = "%s: %s" % (type(e).__name__, e)


def main():
    scenario, files, ours, theirs = sys.argv[1:]
    runs = [Run(scenario, files, e["url"], (e["id"], e["secret"])) for e in map(json.loads, (ours, theirs))]
    threads = [threading.Thread(target=r.run) for r in runs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    json.dump({"service": runs[0].service, "ours": runs[0].steps, "theirs": runs[1].steps, "failed": [r.failed for r in runs]}, sys.stdout)


main()

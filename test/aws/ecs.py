"""Holds inputs of ECS's RegisterTaskDefinition against botocore's model of ECS, and registers them at an endpoint.

argv[1] is the endpoint as JSON, and standard input a JSON object of inputs by name. The output has, by name, what the model
does not allow and, where it allows all, what DescribeTaskDefinition answers afterwards.
"""

import json
import sys

import boto3
import botocore.session
from botocore.validate import ParamValidator


def enums(shape, value, path, found):
    """What is of no value that the model lists: botocore leaves that to the service."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, member in shape.members.items():
            if name in value:
                enums(member, value[name], f"{path}.{name}", found)
    elif shape.type_name == "list" and isinstance(value, list):
        for i, item in enumerate(value):
            enums(shape.member, item, f"{path}[{i}]", found)
    elif shape.type_name == "string" and shape.enum and value not in shape.enum:
        found.append(f"{path}: {value!r} is none of {shape.enum}")


def unknown(shape, value, path, found):
    if shape.type_name == "structure" and isinstance(value, dict):
        for name in value:
            if name not in shape.members:
                found.append(f"{path}.{name} is not in the model")
            else:
                unknown(shape.members[name], value[name], f"{path}.{name}", found)
    elif shape.type_name == "list" and isinstance(value, list):
        for i, item in enumerate(value):
            unknown(shape.member, item, f"{path}[{i}]", found)


def main():
    endpoint, inputs = json.loads(sys.argv[1]), json.load(sys.stdin)
    model = botocore.session.get_session().get_service_model("ecs")
    shape = model.operation_model("RegisterTaskDefinition").input_shape
    client = boto3.client(
        "ecs", endpoint_url=endpoint["url"], region_name="us-east-1",
        aws_access_key_id=endpoint["id"], aws_secret_access_key=endpoint["secret"],
    )
    out = {}
    for name, document in inputs.items():
        report = ParamValidator().validate(document, shape)
        violations = report.generate_report().splitlines() if report.has_errors() else []
        enums(shape, document, "", violations)
        unknown(shape, document, "", violations)
        out[name] = {"violations": violations}
        if not violations:
            registered = client.register_task_definition(**document)["taskDefinition"]["taskDefinitionArn"]
            answer = client.describe_task_definition(taskDefinition=registered, include=["TAGS"])
            answer.pop("ResponseMetadata")
            out[name]["described"] = answer
    json.dump(out, sys.stdout, default=str)


main()

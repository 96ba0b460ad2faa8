"""Calls every operation of the services around the mesh as one account, with the names, ids
and ARNs of what another account made, and prints what came of it.

argv: the folder of the models; key, secret of the account that makes things; those of the
other. Prints one JSON object: "called" (service operation: how it ended), "leaks" (answers
that tell what only the owner knows) and "changed" (what the owner sees differently after).
"""

import glob
import json
import os
import sys

import boto3
from botocore import config, exceptions, xform_name

folder, *keys = sys.argv[1:]
KNOWN = "known-to-the-owner-alone"
# The names of models here and of boto3's clients.
CLIENTS = {"servicequotas": "service-quotas", "tagging": "resourcegroupstaggingapi"}


def clients(key, secret):
    made = {}

    def client(name):
        if name not in made:
            made[name] = boto3.client(
                CLIENTS.get(name, name), aws_access_key_id=key, aws_secret_access_key=secret,
                config=config.Config(inject_host_prefix=False, parameter_validation=False),
            )
        return made[name]

    return client


owner, other = clients(*keys[:2]), clients(*keys[2:])
account = owner("sts").get_caller_identity()["Account"]
tags = [{"Key": "note", "Value": KNOWN}]
policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Sid": KNOWN.replace("-", ""), "Effect": "Allow", "Action": "appmesh:*", "Resource": "*"}]})
trust = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole", "Principal": {"AWS": f"arn:aws:iam::{account}:root"}}]})


def make():
    """Makes one of everything, and returns the inputs that name it by members' names."""
    mesh, iam, sd, ram, pca, acm = (owner(n) for n in ("appmesh", "iam", "servicediscovery", "ram", "acm-pca", "acm"))
    arn = mesh.create_mesh(meshName="m", tags=[{"key": "note", "value": KNOWN}])["mesh"]["metadata"]["arn"]
    named = {"ResourceARNList": [arn], "resourceArns": [arn], "resourceOwner": "OTHER-ACCOUNTS"}
    named["UserName"] = iam.create_user(UserName="user", Path=f"/{KNOWN}/", Tags=tags)["User"]["UserName"]
    named["AccessKeyId"] = iam.create_access_key(UserName="user")["AccessKey"]["AccessKeyId"]
    named["GroupName"] = iam.create_group(GroupName="group", Path=f"/{KNOWN}/")["Group"]["GroupName"]
    iam.add_user_to_group(UserName="user", GroupName="group")
    role = iam.create_role(RoleName="role", Description=KNOWN, AssumeRolePolicyDocument=trust, Tags=tags)["Role"]
    named["RoleName"], named["RoleArn"], named["roleArn"], named["PolicySourceArn"] = role["RoleName"], role["Arn"], role["Arn"], role["Arn"]
    named["PolicyArn"] = iam.create_policy(PolicyName="policy", Description=KNOWN, PolicyDocument=policy, Tags=tags)["Policy"]["Arn"]
    named["PermissionsBoundary"] = named["PolicyArn"]
    named["InstanceProfileName"] = iam.create_instance_profile(InstanceProfileName="profile", Path=f"/{KNOWN}/")["InstanceProfile"]["InstanceProfileName"]
    iam.add_role_to_instance_profile(InstanceProfileName="profile", RoleName="role")
    iam.put_user_policy(UserName="user", PolicyName="inline", PolicyDocument=policy)
    iam.attach_role_policy(RoleName="role", PolicyArn=named["PolicyArn"])
    named["OpenIDConnectProviderArn"] = iam.create_open_id_connect_provider(Url="https://issuer.example.com", ClientIDList=[KNOWN])["OpenIDConnectProviderArn"]
    sd.create_http_namespace(Name="space", Description=KNOWN, Tags=tags)
    space = sd.list_namespaces()["Namespaces"][0]
    service = sd.create_service(Name="service", NamespaceId=space["Id"], Description=KNOWN, Tags=tags)["Service"]
    named["OperationId"] = sd.register_instance(ServiceId=service["Id"], InstanceId="i", Attributes={"AWS_INSTANCE_IPV4": "10.0.0.1", "note": KNOWN})["OperationId"]
    named.update({"NamespaceId": space["Id"], "ServiceId": service["Id"], "InstanceId": "i", "NamespaceName": "space", "ServiceName": "service"})
    named["servicediscovery ResourceARN"] = service["Arn"]
    share = ram.create_resource_share(name=KNOWN, resourceArns=[arn], principals=["999988887777"])["resourceShare"]
    named.update({"resourceShareArn": share["resourceShareArn"], "resourceShareArns": [share["resourceShareArn"]]})
    authority = pca.create_certificate_authority(
        CertificateAuthorityType="ROOT", Tags=tags,
        CertificateAuthorityConfiguration={"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": "SHA256WITHECDSA", "Subject": {"CommonName": KNOWN}},
    )["CertificateAuthorityArn"]
    named["CertificateAuthorityArn"] = authority
    csr = pca.get_certificate_authority_csr(CertificateAuthorityArn=authority)["Csr"].encode()
    issued = pca.issue_certificate(
        CertificateAuthorityArn=authority, Csr=csr, SigningAlgorithm="SHA256WITHECDSA",
        TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity={"Type": "DAYS", "Value": 9},
    )["CertificateArn"]
    pca.get_waiter("certificate_issued").wait(CertificateAuthorityArn=authority, CertificateArn=issued, WaiterConfig={"Delay": 1})
    own = pca.get_certificate(CertificateAuthorityArn=authority, CertificateArn=issued)["Certificate"].encode()
    pca.import_certificate_authority_certificate(CertificateAuthorityArn=authority, Certificate=own)
    named["acm-pca CertificateArn"] = issued
    named["CertificateArn"] = acm.request_certificate(DomainName=f"{KNOWN}.example.com", CertificateAuthorityArn=authority, Tags=tags)["CertificateArn"]
    named["Csr"] = csr
    asked = owner("service-quotas").request_service_quota_increase(ServiceCode="appmesh", QuotaCode="L-AC861A39", DesiredValue=123.0)
    named["RequestId"] = asked["RequestedQuota"]["Id"]
    return named


# Which of the ids an operation of Cloud Map means by Id and ARN.
def told(service, operation, member, named):
    if service == "servicediscovery" and member == "Id":
        return named["NamespaceId" if "Namespace" in operation else "ServiceId"]
    if service == "iam" and member == "ResourceArns":
        return ["*"]
    return named.get(f"{service} {member}", named.get(member))


PLAIN = {
    "PolicyDocument": policy, "AssumeRolePolicyDocument": trust, "PolicyInputList": [policy], "ActionNames": ["appmesh:ListMeshes"],
    "PolicyName": "inline", "VersionId": "v1", "Url": "https://issuer.example.com", "AWSServiceName": "appmesh.amazonaws.com", "Scope": "All",
    "ServiceCode": "appmesh", "QuotaCode": "L-AC861A39", "clusterName": "c", "namespace": "n", "serviceAccount": "s", "Status": "Active",
    "token": "a.b.c", "WebIdentityToken": "a.b.c", "Passphrase": b"passphrase", "servicediscovery Status": "HEALTHY",
    "servicediscovery Name": "example.com", "DomainName": "orders.example.com", "permissionArn": "arn:aws:ram::aws:permission/AWSRAMDefaultPermissionAppMesh",
    "resourceShareInvitationArn": f"arn:aws:ram:us-east-1:{account}:resource-share-invitation/00000000-0000-0000-0000-000000000000", "RoleSessionName": "session", "SigningAlgorithm": "SHA256WITHECDSA", "RevocationReason": "UNSPECIFIED",
    "Actions": ["IssueCertificate"], "Principal": "acm.amazonaws.com", "resourceType": "appmesh:Mesh", "principal": "999988887777",
}


def value(service, operation, shape, member, named, depth=0):
    found = told(service, operation, member, named)
    if found is None:
        found = PLAIN.get(f"{service} {member}", PLAIN.get(member))
    if found is not None:
        return [found] if shape.type_name == "list" and not isinstance(found, list) else found
    if shape.type_name == "structure":
        return {m: value(service, operation, shape.members[m], m, named, depth + 1) for m in (shape.required_members if depth else wanted(service, operation, shape, named))}
    if shape.type_name == "list":
        return [value(service, operation, shape.member, member, named, depth + 1)]
    if shape.type_name == "map":
        return {"k": value(service, operation, shape.value, member, named, depth + 1)}
    return {"string": lambda: shape.enum[0] if shape.enum else "x" * max(1, shape.metadata.get("min", 1)), "integer": lambda: 1, "long": lambda: 1,
            "boolean": lambda: True, "blob": lambda: b"x", "timestamp": lambda: 1767225600, "double": lambda: 1.0, "float": lambda: 1.0}[shape.type_name]()


def wanted(service, operation, shape, named):
    """The members that must be there, and those that name something of the owner's."""
    return [m for m in shape.members if m in shape.required_members or told(service, operation, m, named) is not None]


def seen():
    """What the owner sees of its own."""
    out = {}
    for model in sorted(glob.glob(os.path.join(folder, "*.json"))):
        name = os.path.basename(model)[:-5]
        if name in ("appmesh", "evermesh", "cloudtrail", "sts", "eks-auth"):
            continue
        with open(model) as f:
            operations = json.load(f)["operations"]
        for operation in sorted(operations):
            if not operation.startswith(("Get", "List", "Describe", "Discover")) or operation in ("GetAccessKeyLastUsed", "GetServiceLinkedRoleDeletionStatus"):
                continue
            client = owner(name)
            shape = client.meta.service_model.operation_model(operation).input_shape
            try:
                answer = getattr(client, xform_name(operation))(**({} if shape is None else value(name, operation, shape, "", dict(NAMED, resourceOwner="SELF"))))
                answer.pop("ResponseMetadata")
            except exceptions.ClientError as e:
                answer = e.response["Error"]["Code"]
            out[f"{name} {operation}"] = json.dumps(answer, default=str, sort_keys=True)
    return out


NAMED = make()
before = seen()
assert sum(KNOWN in text for text in before.values()) > 20, [name for name, text in before.items() if KNOWN in text]
called, leaks = {}, []
for model in sorted(glob.glob(os.path.join(folder, "*.json"))):
    name = os.path.basename(model)[:-5]
    if name in ("appmesh", "evermesh"):
        continue
    with open(model) as f:
        operations = json.load(f)["operations"]
    for operation in sorted(operations):
        client = other(name)
        shape = client.meta.service_model.operation_model(operation).input_shape
        sent = {} if shape is None else value(name, operation, shape, "", NAMED)
        try:
            answer = getattr(client, xform_name(operation))(**sent)
            answer.pop("ResponseMetadata")
            ended = "OK"
        except exceptions.ClientError as e:
            answer, ended = e.response, e.response["Error"]["Code"]
        told_back = json.dumps(answer, default=str)
        if KNOWN in told_back and KNOWN not in json.dumps(sent, default=str):
            leaks.append(f"{name} {operation}: {told_back}")
        called[f"{name} {operation}"] = ended
after = seen()
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
print(json.dumps({"called": called, "leaks": leaks, "changed": changed}))

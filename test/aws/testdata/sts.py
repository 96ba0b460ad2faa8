# sts
# aws sts get-caller-identity

iam = client("iam")
policy = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "appmesh:*", "Resource": "*"}]})
trust = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::%s:root" % ACCOUNT}, "Action": "sts:AssumeRole"}]})
role = "arn:aws:iam::%s:role/assumed" % ACCOUNT
iam.create_user(UserName="sam")
iam.put_user_policy(UserName="sam", PolicyName="all", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:*", "Resource": "*"}]}))
made = iam.create_access_key(UserName="sam")["AccessKey"]
sam = client("sts", key=(made["AccessKeyId"], made["SecretAccessKey"]))
iam.create_role(RoleName="assumed", AssumeRolePolicyDocument=trust)

call("GetCallerIdentity")
call("GetCallerIdentity", _client=sam)
call("GetAccessKeyInfo", AccessKeyId=made["AccessKeyId"])
session = call("AssumeRole", _client=sam, RoleArn=role, RoleSessionName="run", DurationSeconds=900, Policy=policy)["Credentials"]
call("AssumeRole", _client=sam, RoleArn=role, RoleSessionName="run", DurationSeconds=10)
call("AssumeRole", _client=sam, RoleArn="arn:aws:iam::%s:role/none" % ACCOUNT, RoleSessionName="run")
call("GetCallerIdentity", _client=client("sts", key=(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])))
call("GetSessionToken", _client=sam, DurationSeconds=900)
call("GetFederationToken", _client=sam, Name="guest", Policy=policy, DurationSeconds=900)
call("AssumeRoleWithWebIdentity", _client=client("sts", unsigned=True), RoleArn=role, RoleSessionName="pod", WebIdentityToken="not.a.token")

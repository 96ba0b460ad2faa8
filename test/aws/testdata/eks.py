# eks
# aws eks list-pod-identity-associations --cluster-name shop

iam = client("iam")
# A provider says which cluster's tokens it signs; moto wants the cluster itself.
iam.create_open_id_connect_provider(Url="https://oidc.example.com/id/shop", ClientIDList=["pods.eks.amazonaws.com"], Tags=[{"Key": "evermesh:eks-cluster", "Value": "shop"}])
trust = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "pods.eks.amazonaws.com"}, "Action": ["sts:AssumeRole", "sts:TagSession"]}]})
role = iam.create_role(RoleName="pods", AssumeRolePolicyDocument=trust)["Role"]["Arn"]
made = call("CreatePodIdentityAssociation", clusterName="shop", namespace="shop", serviceAccount="orders", roleArn=role)
call("CreatePodIdentityAssociation", clusterName="shop", namespace="shop", serviceAccount="orders", roleArn=role)
made = made["association"]["associationId"]
call("DescribePodIdentityAssociation", clusterName="shop", associationId=made)
call("DescribePodIdentityAssociation", clusterName="shop", associationId="a-none")
call("ListPodIdentityAssociations", clusterName="shop")
call("UpdatePodIdentityAssociation", clusterName="shop", associationId=made, roleArn=role)
call("DeletePodIdentityAssociation", clusterName="shop", associationId=made)

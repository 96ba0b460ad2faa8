# eks-auth
# refused: aws eks-auth assume-role-for-pod-identity --cluster-name none --token a.b.c

call("AssumeRoleForPodIdentity", clusterName="none", token="a.b.c")

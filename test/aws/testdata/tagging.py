# resourcegroupstaggingapi
# aws resourcegroupstaggingapi get-resources --resource-type-filters appmesh:mesh

mesh = client("appmesh").create_mesh(meshName="tagged", tags=[{"key": "team", "value": "mesh"}])["mesh"]["metadata"]["arn"]
call("GetResources", TagFilters=[{"Key": "team", "Values": ["mesh"]}], ResourceTypeFilters=["appmesh:mesh"])
call("GetResources", TagFilters=[{"Key": "team", "Values": ["none"]}])
call("GetResources", ResourceTypeFilters=["appmesh"], ResourcesPerPage=1)
call("TagResources", ResourceARNList=[mesh], Tags={"stage": "test"})
call("TagResources", ResourceARNList=["not an arn"], Tags={"stage": "test"})
call("GetTagKeys")
call("GetTagValues", Key="stage")
call("UntagResources", ResourceARNList=[mesh], TagKeys=["stage"])

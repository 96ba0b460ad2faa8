# cloudtrail
# aws cloudtrail lookup-events --max-results 1

client("appmesh").create_mesh(meshName="seen")
call("LookupEvents", LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "NoSuchEvent"}])
call("LookupEvents", LookupAttributes=[{"AttributeKey": "EventName", "AttributeValue": "A"}, {"AttributeKey": "EventId", "AttributeValue": "B"}])
call("LookupEvents", StartTime=1700000000, EndTime=1600000000)
call("LookupEvents", NextToken="no token")

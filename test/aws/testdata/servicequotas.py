# service-quotas
# aws service-quotas list-aws-default-service-quotas --service-code appmesh

call("ListServices")
call("ListAWSDefaultServiceQuotas", ServiceCode="appmesh")
call("GetAWSDefaultServiceQuota", ServiceCode="appmesh", QuotaCode="L-AC861A39")
call("GetAWSDefaultServiceQuota", ServiceCode="appmesh", QuotaCode="L-00000000")
call("ListServiceQuotas", ServiceCode="appmesh")
call("GetServiceQuota", ServiceCode="appmesh", QuotaCode="L-E043DFB4")
made = call("RequestServiceQuotaIncrease", ServiceCode="appmesh", QuotaCode="L-E043DFB4", DesiredValue=1000000)
call("RequestServiceQuotaIncrease", ServiceCode="appmesh", QuotaCode="L-AE1D9567", DesiredValue=20)
call("GetRequestedServiceQuotaChange", RequestId=made["RequestedQuota"]["Id"])
call("ListRequestedServiceQuotaChangeHistory", ServiceCode="appmesh")
call("ListRequestedServiceQuotaChangeHistoryByQuota", ServiceCode="appmesh", QuotaCode="L-E043DFB4")

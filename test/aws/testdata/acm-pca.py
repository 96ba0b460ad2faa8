# acm-pca
# aws acm-pca list-certificate-authorities

config = {"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": "SHA256WITHECDSA", "Subject": {"CommonName": "mesh root", "Organization": "Example"}}
root = call("CreateCertificateAuthority", CertificateAuthorityConfiguration=config, CertificateAuthorityType="ROOT", Tags=[{"Key": "team", "Value": "mesh"}])["CertificateAuthorityArn"]
call("DescribeCertificateAuthority", CertificateAuthorityArn=root)
none = "arn:aws:acm-pca:%s:%s:certificate-authority/4ce6ffb8-0000-4000-8000-000000000000" % (REGION, ACCOUNT)
call("DescribeCertificateAuthority", CertificateAuthorityArn=none)
call("ListCertificateAuthorities")
csr = call("GetCertificateAuthorityCsr", CertificateAuthorityArn=root)["Csr"]
call("GetCertificateAuthorityCertificate", CertificateAuthorityArn=none)
own = call("IssueCertificate", CertificateAuthorityArn=root, Csr=csr.encode() if isinstance(csr, str) else csr, SigningAlgorithm="SHA256WITHECDSA", TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity={"Type": "YEARS", "Value": 10})["CertificateArn"]
pem = call("GetCertificate", CertificateAuthorityArn=root, CertificateArn=own)["Certificate"]
call("ImportCertificateAuthorityCertificate", CertificateAuthorityArn=root, Certificate=pem.encode() if isinstance(pem, str) else pem)
call("GetCertificateAuthorityCertificate", CertificateAuthorityArn=root)
call("UpdateCertificateAuthority", CertificateAuthorityArn=root, RevocationConfiguration={"CrlConfiguration": {"Enabled": False}})
call("TagCertificateAuthority", CertificateAuthorityArn=root, Tags=[{"Key": "stage", "Value": "test"}])
call("ListTags", CertificateAuthorityArn=root)
call("UntagCertificateAuthority", CertificateAuthorityArn=root, Tags=[{"Key": "stage"}])
call("CreatePermission", CertificateAuthorityArn=root, Principal="acm.amazonaws.com", Actions=["IssueCertificate", "GetCertificate", "ListPermissions"])
call("ListPermissions", CertificateAuthorityArn=root)
call("DeletePermission", CertificateAuthorityArn=root, Principal="acm.amazonaws.com")

call("IssueCertificate", CertificateAuthorityArn=root, Csr=file("csr.pem"), SigningAlgorithm="SHA256WITHECDSA", Validity={"Type": "DAYS", "Value": 30})
call("IssueCertificate", CertificateAuthorityArn=root, Csr=b"not a request", SigningAlgorithm="SHA256WITHECDSA", Validity={"Type": "DAYS", "Value": 30})
call("RevokeCertificate", CertificateAuthorityArn=root, CertificateSerial="00", RevocationReason="KEY_COMPROMISE")
call("UpdateCertificateAuthority", CertificateAuthorityArn=root, Status="DISABLED")
call("DeleteCertificateAuthority", CertificateAuthorityArn=root, PermanentDeletionTimeInDays=7)
call("RestoreCertificateAuthority", CertificateAuthorityArn=root)

# acm
# aws acm list-certificates

cert, key = file("cert.pem"), file("key.pem")
none = "arn:aws:acm:%s:%s:certificate/4ce6ffb8-0000-4000-8000-000000000000" % (REGION, ACCOUNT)

imported = call("ImportCertificate", Certificate=cert, PrivateKey=key, Tags=[{"Key": "team", "Value": "mesh"}])["CertificateArn"]
call("ImportCertificate", Certificate=b"not a certificate", PrivateKey=key)
call("DescribeCertificate", CertificateArn=imported)
call("DescribeCertificate", CertificateArn=none)
call("GetCertificate", CertificateArn=imported)
call("GetCertificate", CertificateArn=none)
call("ListCertificates", CertificateStatuses=["ISSUED"])
call("AddTagsToCertificate", CertificateArn=imported, Tags=[{"Key": "stage", "Value": "test"}])
call("ListTagsForCertificate", CertificateArn=imported)
call("RemoveTagsFromCertificate", CertificateArn=imported, Tags=[{"Key": "stage"}])
call("ExportCertificate", CertificateArn=none, Passphrase=b"hush-hush")
call("RenewCertificate", CertificateArn=imported)
call("RevokeCertificate", CertificateArn=imported, RevocationReason="KEY_COMPROMISE")
call("RequestCertificate", DomainName="not a domain")

pca = client("acm-pca")
config = {"KeyAlgorithm": "EC_prime256v1", "SigningAlgorithm": "SHA256WITHECDSA", "Subject": {"CommonName": "issuer"}}
ca = pca.create_certificate_authority(CertificateAuthorityConfiguration=config, CertificateAuthorityType="ROOT")["CertificateAuthorityArn"]
csr = pca.get_certificate_authority_csr(CertificateAuthorityArn=ca)["Csr"]
own = pca.issue_certificate(CertificateAuthorityArn=ca, Csr=csr.encode(), SigningAlgorithm="SHA256WITHECDSA", TemplateArn="arn:aws:acm-pca:::template/RootCACertificate/V1", Validity={"Type": "YEARS", "Value": 10})["CertificateArn"]
pca.import_certificate_authority_certificate(CertificateAuthorityArn=ca, Certificate=pca.get_certificate(CertificateAuthorityArn=ca, CertificateArn=own)["Certificate"].encode())
private = call("RequestCertificate", DomainName="pay.example.com", SubjectAlternativeNames=["pay.example.com", "pay.internal"], CertificateAuthorityArn=ca)["CertificateArn"]
call("DescribeCertificate", CertificateArn=private)
call("ExportCertificate", CertificateArn=private, Passphrase=b"hush-hush")
call("DeleteCertificate", CertificateArn=private)
call("DeleteCertificate", CertificateArn=imported)
call("DeleteCertificate", CertificateArn=imported)

package audit

import (
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// resourceTypes are CloudTrail's names of resources, by the service and the word
// that tells the kind in its ARNs.
var resourceTypes = map[string]string{
	"appmesh:mesh":                  "AWS::AppMesh::Mesh",
	"appmesh:virtualNode":           "AWS::AppMesh::VirtualNode",
	"appmesh:virtualRouter":         "AWS::AppMesh::VirtualRouter",
	"appmesh:route":                 "AWS::AppMesh::Route",
	"appmesh:virtualService":        "AWS::AppMesh::VirtualService",
	"appmesh:virtualGateway":        "AWS::AppMesh::VirtualGateway",
	"appmesh:gatewayRoute":          "AWS::AppMesh::GatewayRoute",
	"iam:user":                      "AWS::IAM::User",
	"iam:group":                     "AWS::IAM::Group",
	"iam:role":                      "AWS::IAM::Role",
	"iam:policy":                    "AWS::IAM::ManagedPolicy",
	"iam:instance-profile":          "AWS::IAM::InstanceProfile",
	"iam:oidc-provider":             "AWS::IAM::OIDCProvider",
	"ram:resource-share":            "AWS::RAM::ResourceShare",
	"servicediscovery:namespace":    "AWS::ServiceDiscovery::Namespace",
	"servicediscovery:service":      "AWS::ServiceDiscovery::Service",
	"acm:certificate":               "AWS::ACM::Certificate",
	"acm-pca:certificate-authority": "AWS::ACMPCA::CertificateAuthority",
	"eks:podidentityassociation":    "AWS::EKS::PodIdentityAssociation",
	"eks:cluster":                   "AWS::EKS::Cluster",
}

// resourceType is the type of what an ARN names; empty when it is not known. The
// last word that is a kind tells: mesh/m/virtualRouter/r/route/x is a route.
func resourceType(arn string) (of string) {
	n, _ := api.ParseResourceName(arn)
	words := strings.FieldsFunc(n.Resource, func(r rune) bool { return r == '/' || r == ':' })
	for i := 0; i < len(words); i += 2 { // names stand between
		if t := resourceTypes[n.Service+":"+words[i]]; t != "" {
			of = t
		}
		if n.Service != "appmesh" {
			break
		}
	}
	return of
}

// resourceName is what a lookup finds the resource by, as CloudTrail has it: its
// name, or the whole ARN.
func resourceName(arn string) string { return lastPart(resourceOf(arn)) }

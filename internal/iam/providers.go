package iam

import (
	"net/url"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/iamapi"
)

const (
	providersPerAccount    = 100
	clientsPerProvider     = 100
	thumbprintsPerProvider = 5
)

// ClusterTag is the tag of an OIDC provider that names the cluster whose service
// accounts it vouches for: associations of EKS Pod Identity are made for a cluster.
const ClusterTag = "evermesh:eks-cluster"

// sole says whether a new provider may be in the account beside the others: a cluster
// has one issuer, as another one with its name could make tokens of its pods.
func (d *desk) sole(p *provider) error {
	others, err := all[provider](d, recordsTail(d.account, providerRecord))
	if err != nil {
		return err
	}
	if len(others) >= providersPerAccount {
		return exceeded("OpenIdConnectProvidersPerAccount", providersPerAccount)
	}
	return p.alone(others)
}

// alone says whether no other provider has the cluster that the provider is of.
func (p *provider) alone(others []*provider) error {
	cluster := tagMap(p.Tags)[ClusterTag]
	for _, other := range others {
		if cluster != "" && other.URL != p.URL && tagMap(other.Tags)[ClusterTag] == cluster {
			return taken("The cluster %s is that of provider https://%s already: a cluster has one, so choose another name for the tag %s.", cluster, other.URL, ClusterTag)
		}
	}
	return nil
}

// issuerOf is the part of an issuer's URL that its ARN and its condition keys have.
func issuerOf(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", api.Errorf(codeValidation, "Invalid Open ID Connect Provider URL: it must be an https URL without a query, such as https://oidc.example.com/cluster.")
	}
	return strings.TrimPrefix(text, "https://"), nil
}

const providerARN = "oidc-provider"

func (d *desk) putProvider(p *provider) {
	d.put(providerType(), recordTail(d.account, providerRecord, p.URL), p)
}

// provider finds an OIDC provider by its ARN, which policies may know by its tags.
// keys are condition keys of the input.
func (d *desk) provider(arn string, keys ...map[string][]string) (*provider, error) {
	var p *provider
	if issuer, ok := strings.CutPrefix(arn, d.arn(d.account, providerARN, "/", "")); ok {
		var err error
		if p, err = read[provider](d, recordTail(d.account, providerRecord, issuer)); err != nil {
			return nil, err
		}
		if p != nil && p.URL != issuer { // names in ARNs have case
			p = nil
		}
	}
	var tags map[string][]string
	if p != nil {
		tags = ofTags(p.Tags)
	}
	if err := d.allow(arn, append(keys, tags)...); err != nil {
		return nil, err
	}
	if p == nil {
		return nil, absent("OpenIDConnect Provider not found for arn %s", arn)
	}
	return p, nil
}

func (d *desk) createProvider(in *iamapi.CreateOpenIDCOnnectProviderRequest) (*iamapi.CreateOpenIDCOnnectProviderResponse, error) {
	issuer, err := issuerOf(in.Url)
	if err != nil {
		return nil, err
	}
	arn := d.arn(d.account, providerARN, "/", issuer)
	if err := d.allowNew(arn, "iam:TagOpenIDConnectProvider", in.Tags); err != nil {
		return nil, err
	}
	p := &provider{URL: issuer, Created: d.stamp()}
	if p.Tags, err = withTags(nil, in.Tags); err != nil {
		return nil, err
	}
	for _, c := range in.ClientIDLIst {
		if !slices.Contains(p.Clients, c) {
			p.Clients = append(p.Clients, c)
		}
	}
	if len(p.Clients) > clientsPerProvider {
		return nil, exceeded("ClientIdsPerOpenIdConnectProvider", clientsPerProvider)
	}
	if err := p.trust(in.ThumbprintList); err != nil {
		return nil, err
	}
	if d.Record(recordTail(d.account, providerRecord, issuer)) != nil {
		return nil, taken("Provider with url https://%s already exists.", issuer)
	}
	if err := d.sole(p); err != nil {
		return nil, err
	}
	d.putProvider(p)
	return &iamapi.CreateOpenIDCOnnectProviderResponse{OpenIDCOnnectProviderARN: arn, Tags: tagList(p.Tags)}, nil
}

// trust sets the thumbprints of certificates that the provider may have.
func (p *provider) trust(thumbprints []string) error {
	if len(thumbprints) > thumbprintsPerProvider {
		return api.Errorf(iamapi.CodeInvalidInput, "Thumbprint list must contain fewer than %d entries.", thumbprintsPerProvider+1)
	}
	p.Thumbprints = thumbprints
	return nil
}

func (d *desk) getProvider(in *iamapi.GetOpenIDCOnnectProviderRequest) (*iamapi.GetOpenIDCOnnectProviderResponse, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN)
	if err != nil {
		return nil, err
	}
	return &iamapi.GetOpenIDCOnnectProviderResponse{
		ClientIDLIst: p.Clients, CreateDate: timestamp(p.Created), Tags: tagList(p.Tags), ThumbprintList: p.Thumbprints, Url: p.URL,
	}, nil
}

func (d *desk) listProviders(_ *iamapi.ListOpenIDCOnnectProvidersRequest) (*iamapi.ListOpenIDCOnnectProvidersResponse, error) {
	if err := d.allowList(providerARN, ""); err != nil {
		return nil, err
	}
	list, err := all[provider](d, recordsTail(d.account, providerRecord))
	if err != nil {
		return nil, err
	}
	out := &iamapi.ListOpenIDCOnnectProvidersResponse{}
	for _, p := range list {
		out.OpenIDCOnnectProviderList = append(out.OpenIDCOnnectProviderList, iamapi.OpenIDCOnnectProviderListEntry{ARN: d.arn(d.account, providerARN, "/", p.URL)})
	}
	return out, nil
}

func (d *desk) deleteProvider(in *iamapi.DeleteOpenIDCOnnectProviderRequest) (*nothing, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN)
	if err != nil {
		return nil, err
	}
	d.remove(providerType(), recordTail(d.account, providerRecord, p.URL))
	return &nothing{}, nil
}

func (d *desk) addClient(in *iamapi.AddClientIDTOOpenIDCOnnectProviderRequest) (*nothing, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN)
	if err != nil {
		return nil, err
	}
	switch {
	case slices.Contains(p.Clients, in.ClientID):
		return &nothing{}, nil
	case len(p.Clients) >= clientsPerProvider:
		return nil, exceeded("ClientIdsPerOpenIdConnectProvider", clientsPerProvider)
	}
	p.Clients = append(p.Clients, in.ClientID)
	d.putProvider(p)
	return &nothing{}, nil
}

func (d *desk) removeClient(in *iamapi.RemoveClientIDFRomOpenIDCOnnectProviderRequest) (*nothing, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN)
	if err != nil {
		return nil, err
	}
	p.Clients = slices.DeleteFunc(p.Clients, func(c string) bool { return c == in.ClientID })
	d.putProvider(p)
	return &nothing{}, nil
}

func (d *desk) updateThumbprint(in *iamapi.UpdateOpenIDCOnnectProviderThumbprintRequest) (*nothing, error) {
	p, err := d.provider(in.OpenIDCOnnectProviderARN)
	if err != nil {
		return nil, err
	}
	if err := p.trust(in.ThumbprintList); err != nil {
		return nil, err
	}
	d.putProvider(p)
	return &nothing{}, nil
}

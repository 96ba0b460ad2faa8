package cloudformation

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
)

// ref is what Ref gives for a name: a parameter, a resource, or what begins with
// AWS::.
func (s *stack) ref(name string, at Position, path string) *node {
	if strings.HasPrefix(name, "AWS::") {
		return s.pseudo(name, at, path)
	}
	if p := s.parameters[name]; p != nil {
		return p.value
	}
	return s.attributeOf(name, "", at, path)
}

// pseudoParameters are the names that every template knows.
var pseudoParameters = []string{
	"AWS::AccountId", "AWS::NoValue", "AWS::NotificationARNs", "AWS::Partition", "AWS::Region", "AWS::StackId",
	"AWS::StackName", "AWS::URLSuffix",
}

func (s *stack) pseudo(name string, at Position, path string) *node {
	value := ""
	switch name {
	case "AWS::NoValue":
		return &node{form: isNothing, at: at}
	case "AWS::AccountId":
		value = s.options.Account
	case "AWS::Region":
		value = s.options.Region
	case "AWS::Partition":
		value = s.options.Partition
	case "AWS::StackName":
		value = s.options.Stack
	case "AWS::URLSuffix":
		value = suffixes[s.pseudo("AWS::Partition", at, path).text]
	default:
		if !slices.Contains(pseudoParameters, name) {
			return s.broken(at, path, "there is no %s%s", name, meant(name, pseudoParameters))
		}
	}
	if value == "" {
		s.takes[name] = true
		value = s.options.Parameters[name]
	}
	if value == "" {
		if name == "AWS::StackName" {
			return unknown(at, "%s is not known here: give it (--stack-name NAME)", name)
		}
		return unknown(at, "%s is not known here: give it (--parameter %s=VALUE)", name, name)
	}
	return &node{at: at, text: value}
}

// suffixes are the domains of AWS's partitions.
var suffixes = map[string]string{
	"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu",
	"aws-iso": "c2s.ic.gov", "aws-iso-b": "sc2s.sgov.gov", "aws-iso-e": "cloud.adc-e.uk", "aws-iso-f": "csp.hci.ic.gov",
}

// attributeOf is an attribute of the resource with that logical id; what Ref
// gives, when attribute is empty.
func (s *stack) attributeOf(id, attribute string, at Position, path string) *node {
	d := s.byID[id]
	switch {
	case d == nil && s.parameters[id] != nil:
		return s.broken(at, path, "%s is a parameter, which has no attributes", id)
	case d == nil:
		return s.broken(at, path, "the template has no %s%s", id, alike(s, id, s.ids))
	case s.inCondition:
		return s.broken(at, path, "a condition refers to the resource %s, which does not exist before it", id)
	case d.isAppMesh:
		return s.ours(d, attribute, at, path)
	case strings.HasPrefix(d.kind, appMesh):
		return &node{form: isBroken, at: at} // told already
	}
	name := id
	if attribute != "" {
		name += "." + attribute
	}
	s.takes[name] = true
	if v, given := s.options.Parameters[name]; given {
		return s.make(at, path, false, v)
	}
	if strings.HasPrefix(d.kind, cloudMap) && attribute == "Name" {
		return s.cloudMapName(d)
	}
	return unknown(at, "%s is of %s, which is not made here: give its value (--parameter %s=VALUE)", name, d.kind, name)
}

// ask works a value out once; what is made of itself is a fault.
func (d *declared) ask(s *stack, name string, at Position, path string, work func() *node) *node {
	if v := d.attributes[name]; v != nil {
		return v
	}
	if d.asking[name] {
		return s.broken(at, path, "the %s of %s is made of itself", property(name), d.id)
	}
	d.asking[name] = true
	v := work()
	d.attributes[name] = v
	return v
}

// cloudMapName is the name of a namespace or service.
func (s *stack) cloudMapName(d *declared) *node {
	n := d.properties.get("Name")
	if n == nil {
		return unknown(d.at, "%s has no Name", d.id)
	}
	path := "Resources." + d.id + ".Properties.Name"
	return d.ask(s, "Name", n.at, path, func() *node { return s.text(n, path) })
}

// ours is an attribute of an App Mesh resource.
func (s *stack) ours(d *declared, attribute string, at Position, path string) *node {
	if !s.isMade(d) {
		return s.broken(at, path, "%s is not made, as its condition %s is false", d.id, d.condition.text)
	}
	switch attribute {
	case "", "Arn", "Id":
		return d.ask(s, "Arn", at, path, func() *node { return s.arn(d, at, path) })
	case "Uid":
		return unknown(at, "%s.Uid is made by the control plane and not known before", d.id)
	case "ResourceOwner":
		return s.pseudo("AWS::AccountId", at, path)
	}
	members := nameMembers(d.row)
	for _, member := range append(members, "meshOwner") {
		if property(member) == attribute {
			return s.nameOf(d, member, at, path)
		}
	}
	known := []string{"Arn", "Id", "MeshOwner", "ResourceOwner", "Uid"}
	for _, member := range members {
		known = append(known, property(member))
	}
	return s.broken(at, path, "%s has no attribute %s%s", d.kind, attribute, meant(attribute, known))
}

// nameMembers are the members of a kind's inputs that name a resource, the
// mesh's first and its own last.
func nameMembers(row api.KindRow) []string {
	out := []string{row.Name}
	for row.Parent != "" {
		row, _ = row.Parent.Row()
		out = append([]string{row.Name}, out...)
	}
	return out
}

// nameOf is the value of a property that names the resource, or its mesh's owner.
func (s *stack) nameOf(d *declared, member string, at Position, path string) *node {
	return d.ask(s, member, at, path, func() *node {
		where := "Resources." + d.id + ".Properties." + property(member)
		v := &node{form: isNothing, at: d.at}
		if n := d.properties.get(property(member)); n != nil {
			if v = s.resolve(n, where); v.form == isList || v.form == isObject {
				return &node{form: isBroken, at: n.at} // told where the resource is made
			}
		}
		switch {
		case v.form != isNothing:
			return v
		case member == "meshOwner":
			return s.pseudo("AWS::AccountId", at, path)
		case member == d.row.Name && d.row.Kind != api.KindVirtualService:
			return s.madeName(d)
		}
		return &node{form: isBroken, at: d.at} // a required property: told where the resource is made
	})
}

// madeName is the name of a resource that has none. CloudFormation's ends with
// letters by chance; this one is the same every time.
func (s *stack) madeName(d *declared) *node {
	stack := s.pseudo("AWS::StackName", d.at, "")
	if stack.form != isText {
		return unknown(d.at, "%s has no %s, and the name that is made for it begins with the stack's, which is not known: give one of the two (--stack-name NAME)", d.id, property(d.row.Name))
	}
	return &node{at: d.at, text: stack.text + "-" + d.id}
}

// arn is the ARN of an App Mesh resource.
func (s *stack) arn(d *declared, at Position, path string) *node {
	k := api.Key{Kind: d.row.Kind}
	texts := []string{}
	secret := false
	for _, member := range nameMembers(d.row) {
		v := s.nameOf(d, member, at, path)
		if v.form != isText {
			return v
		}
		texts = append(texts, v.text)
		secret = secret || v.secret
	}
	k.Mesh, k.Name = texts[0], texts[len(texts)-1]
	if d.row.Nested() {
		k.Parent = texts[1]
	}
	var realm [3]string
	for i, name := range []string{"AWS::Partition", "AWS::Region", "AWS::AccountId"} {
		v := s.pseudo(name, at, path)
		if v.form != isText {
			missing := *v
			missing.arn = true
			return &missing
		}
		realm[i] = v.text
	}
	return s.make(at, path, secret, api.Realm{Partition: realm[0], Region: realm[1]}.ARN(k, realm[2]))
}

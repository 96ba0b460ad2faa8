package cloudformation

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// property is the name in templates of a member of the API: the member's with a
// capital letter, but for these.
func property(member string) string {
	switch member {
	case "":
		return ""
	case "acm", "dns", "grpc", "http", "http2", "sds", "tcp", "tls":
		return strings.ToUpper(member)
	case "awsCloudMap":
		return "AWSCloudMap"
	}
	return strings.ToUpper(member[:1]) + member[1:]
}

// readOnly are properties that a template may ask for and not give; MeshOwner of
// a mesh is one, too.
var readOnly = []string{"Arn", "Id", "ResourceOwner", "Uid"}

// converter turns the properties of one resource into an input.
type converter struct {
	*stack
	places map[string]place
	// failed are the paths, in the API's form, of what could not be turned and
	// is not in the input; partial those of structures with a member that is
	// not known.
	failed, partial []string
}

// resource makes the input of an App Mesh resource; ok is false when something
// is wrong with it.
func (s *stack) resource(d *declared) (out Resource, ok bool) {
	path := "Resources." + d.id + ".Properties"
	properties := &node{form: isObject, at: d.at}
	if d.properties != nil {
		if properties = s.resolve(d.properties, path); properties.form == isNothing {
			properties = &node{form: isObject, at: d.at}
		}
	}
	c := converter{stack: s, places: map[string]place{}}
	input := "Create" + d.row.Type + "Input"
	doc, isObject := c.structure(input, properties, path, "").(map[string]any)
	if !isObject {
		return Resource{}, false
	}
	c.ownName(d, doc, path)
	r := Resource{Position: d.at, LogicalID: d.id, Kind: d.row.Kind, Doc: doc, places: c.places}
	violations := s.model.Check(input, doc)
	for _, v := range violations {
		if union := s.model.Shapes[v.Shape].Union; !c.explains(v.Path) && (!union || !slices.Contains(c.partial, v.Path)) {
			s.violation(r, v)
		}
	}
	return r, len(violations)+len(c.failed)+len(c.partial) == 0
}

// ownName gives a resource that has none its name.
func (c *converter) ownName(d *declared, doc map[string]any, path string) {
	member := d.row.Name
	if _, named := doc[member]; named || c.explains(member) || d.row.Kind == api.KindVirtualService {
		return
	}
	v := c.madeName(d)
	if v.form != isText {
		c.need(v, d.at, path)
		c.failed = append(c.failed, member)
		return
	}
	doc[member] = v.text
}

// explains says whether a violation at a path follows from what is missing in
// the input, and was told.
func (c *converter) explains(path string) bool {
	return slices.ContainsFunc(c.failed, func(f string) bool {
		return path == f || path == parentPath(f) || strings.HasPrefix(path, f+".") || f == ""
	})
}

// violation tells a constraint of the model in the template's words.
func (s *stack) violation(r Resource, v model.Violation) {
	text := strings.TrimPrefix(v.Constraint, "Member ")
	at, path := r.At(v.Path)
	if text == "must not be null" {
		text = "is required"
		if _, there := r.places[v.Path]; !there {
			path += "." + property(v.Path[strings.LastIndexByte(v.Path, '.')+1:])
		}
	}
	if set, ok := strings.CutPrefix(text, "must satisfy enum value set: "); ok {
		text = "must be one of " + strings.Trim(set, "[]")
	}
	if shape := s.model.Shapes[v.Shape]; shape.Union && strings.HasPrefix(text, "must have exactly one") {
		text = "must have exactly one of " + strings.Join(properties(shape), ", ")
	}
	s.faults.add(at, path, "%s", text)
}

// properties are the names in templates of a structure's members, sorted.
func properties(shape *model.Shape) []string {
	var out []string
	for member := range shape.Members {
		if member != "clientToken" {
			out = append(out, property(member))
		}
	}
	slices.Sort(out)
	return out
}

// fail tells what is wrong with a part; the input goes without it.
func (c *converter) fail(at Position, path, apiPath, format string, args ...any) any {
	c.faults.add(at, path, format, args...)
	c.failed = append(c.failed, apiPath)
	return nil
}

// value turns a part of the properties into the shape's value; nil when it is
// none.
func (c *converter) value(shape string, n *node, path, apiPath string) any {
	c.places[apiPath] = place{n.at, path}
	switch n.form {
	case isUnknown:
		if n.arn && isName(shape) {
			return c.noName(n, path, apiPath) // whatever the ARN would be
		}
		c.need(n, n.at, path)
		c.failed = append(c.failed, apiPath)
		return nil
	case isBroken:
		c.failed = append(c.failed, apiPath)
		return nil
	}
	switch s := c.model.Shapes[shape]; s.Type {
	case "structure":
		return c.structure(shape, n, path, apiPath)
	case "list":
		return c.list(s, n, path, apiPath)
	default:
		return c.scalar(shape, s, n, path, apiPath)
	}
}

func (c *converter) structure(name string, n *node, path, apiPath string) any {
	c.places[apiPath] = place{n.at, path}
	switch n.form {
	case isObject:
	case isBroken:
		c.failed = append(c.failed, apiPath)
		return nil
	case isUnknown:
		c.need(n, n.at, path)
		c.failed = append(c.failed, apiPath)
		return nil
	default:
		return c.fail(n.at, path, apiPath, "is %s: want an object", n.what())
	}
	shape := c.model.Shapes[name]
	known := map[string]string{}
	for member := range shape.Members {
		if member != "clientToken" {
			known[property(member)] = member
		}
	}
	doc := map[string]any{}
	for _, m := range n.members {
		member, ok := known[m.name]
		if !ok {
			text := "unknown" + meant(m.name, properties(shape))
			if apiPath == "" && (slices.Contains(readOnly, m.name) || m.name == "MeshOwner") {
				text = "is read-only: it follows from the others"
			}
			c.faults.add(m.at, path+"."+m.name, "%s", text)
			c.partial = append(c.partial, apiPath)
			continue
		}
		below := member
		if apiPath != "" {
			below = apiPath + "." + member
		}
		if v := c.value(shape.Members[member].Shape, m.value, path+"."+m.name, below); v != nil {
			doc[member] = v
		}
	}
	return doc
}

func (c *converter) list(shape *model.Shape, n *node, path, apiPath string) any {
	if n.form != isList {
		return c.fail(n.at, path, apiPath, "is %s: want a list", n.what())
	}
	out := make([]any, 0, len(n.items))
	for i, item := range n.items {
		v := c.value(shape.Member.Shape, item, fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%s.%d.member", apiPath, i+1))
		if v == nil {
			// The items after it keep their places, for positions.
			if v = map[string]any{}; c.model.Shapes[shape.Member.Shape].Type != "structure" {
				v = ""
			}
		}
		out = append(out, v)
	}
	return out
}

// wholeNumber leaves out what YAML reads in one way and JSON in another, as 010.
var wholeNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)

// words are the plain words of YAML that CloudFormation takes for booleans.
var words = map[string]bool{"true": true, "yes": true, "on": true, "false": false, "no": false, "off": false}

func (c *converter) scalar(name string, shape *model.Shape, n *node, path, apiPath string) any {
	shown := fmt.Sprintf(", not %q", n.text)
	if n.secret || len(n.text) > 64 {
		shown = ""
	}
	switch {
	case n.form != isText:
		return c.fail(n.at, path, apiPath, "is %s: want %s", n.what(), scalarWords[shape.Type])
	case shape.Type == "integer" || shape.Type == "long":
		if !wholeNumber.MatchString(n.text) {
			return c.fail(n.at, path, apiPath, "want a whole number%s", shown)
		}
		return json.Number(n.text)
	case shape.Type == "boolean":
		word := strings.ToLower(n.text)
		value, ok := words[word]
		if !ok || !n.plain && word != "true" && word != "false" {
			return c.fail(n.at, path, apiPath, "want true or false%s", shown)
		}
		return value
	case isName(name) && strings.HasPrefix(n.text, "arn:"):
		return c.noName(n, path, apiPath)
	}
	return n.text
}

// isName says whether a shape of the model is the name of a resource.
func isName(shape string) bool { return shape == "ResourceName" || shape == "ServiceName" }

// noName tells of an ARN where a name belongs.
func (c *converter) noName(n *node, path, apiPath string) any {
	member := apiPath[strings.LastIndexByte(apiPath, '.')+1:]
	return c.fail(n.at, path, apiPath, "is an ARN, as Ref gives it: want a name, as Fn::GetAtt gives it for the attribute %s", property(member))
}

var scalarWords = map[string]string{
	"string": "a text", "integer": "a whole number", "long": "a whole number", "boolean": "true or false", "timestamp": "a time",
}

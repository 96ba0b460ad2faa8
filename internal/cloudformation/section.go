package cloudformation

import (
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/model"
)

// stack is a template that is being read, and what is known of it.
type stack struct {
	model   *model.Model
	options Options
	faults  *faults

	parameters map[string]*parameter
	mappings   map[string]*node
	conditions map[string]*condition
	resources  []*declared // in order
	byID       map[string]*declared
	ids        map[string]bool // of resources, and names of parameters
	written    []member        // the outputs

	takes map[string]bool
	made  int // bytes of text that functions made
	depth int // of the value that is being worked out
	// entered counts the values that were worked out: one of few bytes that uses
	// another ten times, and so on, takes for ever and makes no text.
	entered int
	// inCondition says that a condition is being worked out.
	inCondition bool
}

// declared is a resource as the template has it.
type declared struct {
	id        string
	at        Position
	kind      string // AWS::AppMesh::Mesh
	row       api.KindRow
	isAppMesh bool
	// Nil without.
	condition, properties, dependsOn *node

	attributes map[string]*node // worked out
	asking     map[string]bool  // being worked out
}

func newStack(m *model.Model, o Options, p *faults) *stack {
	return &stack{
		model: m, options: o, faults: p,
		parameters: map[string]*parameter{}, mappings: map[string]*node{}, conditions: map[string]*condition{},
		byID: map[string]*declared{}, ids: map[string]bool{}, takes: map[string]bool{},
	}
}

// sectionNames are the sections that a template may have.
var sectionNames = []string{
	"AWSTemplateFormatVersion", "Description", "Metadata", "Parameters", "Rules", "Mappings", "Conditions", "Transform",
	"Hooks", "Resources", "Outputs",
}

// sections reads what the template declares. Values are worked out when they are
// asked for.
func (s *stack) sections(root *node) {
	for _, m := range root.members {
		switch m.name {
		case "Parameters":
			s.each(m, s.parameter)
		case "Mappings":
			s.each(m, func(name string, m member) { s.mappings[name] = m.value })
		case "Conditions":
			s.each(m, func(name string, m member) { s.conditions[name] = &condition{at: m.at, value: m.value} })
		case "Resources":
			s.each(m, s.declare)
		case "Outputs":
			s.each(m, func(_ string, m member) { s.written = append(s.written, m) })
		case "Transform":
			s.faults.add(m.at, "Transform", "macros are run by AWS and not read: give the template as they leave it (aws cloudformation get-template --template-stage Processed)")
		case "Fn::Transform":
			s.notSupported(m.at, "", m.name)
		default:
			if !slices.Contains(sectionNames, m.name) {
				s.faults.add(m.at, m.name, "unknown section%s", meant(m.name, sectionNames))
			}
		}
	}
	if root.get("Resources") == nil {
		s.faults.add(root.at, "", "has no section Resources: want a CloudFormation template")
	}
}

// each calls do for every member of a section.
func (s *stack) each(section member, do func(name string, m member)) {
	if !s.object(section.value, section.name) {
		return
	}
	for _, m := range section.value.members {
		if strings.HasPrefix(m.name, "Fn::") {
			s.notSupported(m.at, section.name, m.name)
			continue
		}
		do(m.name, m)
	}
}

// object says whether the node is an object, and complains when it is not.
func (s *stack) object(n *node, path string) bool {
	if n.form == isObject {
		return true
	}
	if n.form != isBroken {
		s.faults.add(n.at, path, "is %s: want an object", n.what())
	}
	return false
}

// resourceMembers are what a resource may have beside its type and properties.
var resourceMembers = []string{
	"Type", "Properties", "DependsOn", "Condition", "Metadata", "DeletionPolicy", "UpdateReplacePolicy", "UpdatePolicy", "CreationPolicy",
}

const appMesh, cloudMap = "AWS::AppMesh::", "AWS::ServiceDiscovery::"

func (s *stack) declare(id string, m member) {
	path := "Resources." + id
	s.ids[id] = true
	if !s.object(m.value, path) {
		return
	}
	kind := m.value.get("Type")
	if kind == nil || kind.form != isText {
		s.faults.add(m.at, path, "has no Type that is a text")
		return
	}
	d := &declared{
		id: id, at: m.at, kind: kind.text,
		condition: m.value.get("Condition"), properties: m.value.get("Properties"), dependsOn: m.value.get("DependsOn"),
		attributes: map[string]*node{}, asking: map[string]bool{},
	}
	if name, ok := strings.CutPrefix(d.kind, appMesh); ok {
		types := make([]string, 0, len(api.Kinds()))
		for _, row := range api.Kinds() {
			types = append(types, appMesh+row.Type)
			if row.Type == name {
				d.row, d.isAppMesh = row, true
			}
		}
		if !d.isAppMesh {
			s.faults.add(kind.at, path+".Type", "%s is no type of App Mesh%s", d.kind, meant(d.kind, types))
			s.byID[id] = d
			return
		}
	}
	if d.isAppMesh {
		for _, part := range m.value.members {
			if !slices.Contains(resourceMembers, part.name) {
				s.faults.add(part.at, path+"."+part.name, "unknown%s", meant(part.name, resourceMembers))
			}
		}
	}
	s.resources = append(s.resources, d)
	s.byID[id] = d
}

// skips says why a resource is not applied; why is empty for one that is.
func (s *stack) skips(d *declared) (out Skipped, why string) {
	out = Skipped{Position: d.at, LogicalID: d.id, Type: d.kind}
	switch {
	case d.isAppMesh && s.isMade(d):
		return out, ""
	case d.isAppMesh:
		out.Why = "its condition " + d.condition.text + " is false"
	case strings.HasPrefix(d.kind, cloudMap):
		out.Why = "Cloud Map resource"
		if n := s.cloudMapName(d); n.form == isText && !n.secret {
			out.Name = n.text
		}
	case d.kind == "AWS::CloudFormation::Stack":
		out.Why = "nested stack: give its template as a file"
	default:
		out.Why = "not a resource of App Mesh"
	}
	return out, out.Why
}

// dependencies checks what a resource says that it depends on: the order itself
// follows from the kinds.
func (s *stack) dependencies(d *declared) {
	path := "Resources." + d.id + ".DependsOn"
	on := []*node{d.dependsOn}
	switch {
	case d.dependsOn == nil:
		return
	case d.dependsOn.form == isList:
		on = d.dependsOn.items
	}
	for _, n := range on {
		if n.form != isText {
			if n.form != isBroken {
				s.faults.add(n.at, path, "is %s: want the logical id of a resource, or a list of them", n.what())
			}
		} else if s.byID[n.text] == nil {
			s.faults.add(n.at, path, "the template has no resource %s%s", n.text, alike(s, n.text, s.byID))
		}
	}
}

// isMade says whether a resource's condition is true, or it has none.
func (s *stack) isMade(d *declared) bool {
	if d.condition == nil {
		return true
	}
	if d.condition.form != isText {
		if d.condition.form != isBroken {
			s.faults.add(d.condition.at, "Resources."+d.id+".Condition", "is %s: want the name of a condition", d.condition.what())
		}
		return true
	}
	holds, known := s.named(d.condition.text, d.condition.at, "Resources."+d.id+".Condition")
	return holds || !known
}

// hidden stands for a value that is made of a parameter with NoEcho.
const hidden = "****"

// outputs works the outputs out.
func (s *stack) outputs() []Output {
	var out []Output
	for _, m := range s.written {
		path := "Outputs." + m.name
		if !s.object(m.value, path) {
			continue
		}
		if c := m.value.get("Condition"); c != nil && c.form == isText {
			if holds, known := s.named(c.text, c.at, path+".Condition"); known && !holds {
				continue
			}
		}
		value := m.value.get("Value")
		if value == nil {
			s.faults.add(m.at, path, "has no Value")
			continue
		}
		o := Output{Position: m.at, Name: m.name}
		switch v := s.resolve(value, path+".Value"); v.form {
		case isText:
			o.Value = v.text
			if v.secret {
				o.Value = hidden
			}
		case isUnknown:
			o.Unknown = v.text
		case isBroken:
			continue
		default:
			s.faults.add(value.at, path+".Value", "is %s: want a text", v.what())
			continue
		}
		if name := m.value.get("Export").get("Name"); name != nil && o.Value != hidden {
			if v := s.resolve(name, path+".Export.Name"); v.form == isText && !v.secret {
				o.Export = v.text
			}
		}
		out = append(out, o)
	}
	return out
}

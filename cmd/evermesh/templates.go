package main

import (
	"maps"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/apply"
	"github.com/evermesh/evermesh/internal/cloudformation"
)

// templates are CloudFormation templates and what is said about them.
type templates struct {
	files   []file
	options fileOptions
}

// parsed is what a template says, and what is wrong with it.
type parsed struct {
	cloudformation.Template
	slot     int // of its file
	problems []cloudformation.Fault
}

// parse reads the templates. What one exports the others can import.
func (t templates) parse() []parsed {
	o := cloudformation.Options{
		Parameters: t.options.parameters, Imports: maps.Clone(t.options.imports), Stack: t.options.stack,
		Partition: t.options.partition, Region: t.options.region, Account: t.options.account,
	}
	if o.Imports == nil {
		o.Imports = map[string]string{}
	}
	// A chain of templates that import from each other is as long as there are
	// templates, and no longer.
	for range len(t.files) - 1 {
		known := len(o.Imports)
		for _, f := range t.files {
			read, _ := cloudformation.Parse(f.name, f.text, o)
			for _, output := range read.Outputs {
				if _, given := o.Imports[output.Export]; output.Export != "" && output.Unknown == "" && !given {
					o.Imports[output.Export] = output.Value
				}
			}
		}
		if len(o.Imports) == known {
			break
		}
	}
	out := make([]parsed, len(t.files))
	for i, f := range t.files {
		out[i].slot = f.slot
		out[i].Template, out[i].problems = cloudformation.Parse(f.name, f.text, o)
	}
	return out
}

// outputs are those of the templates, worked out with what the control plane's
// answers say: the partition, region and account, which ARNs have in them. What
// the caller said of these holds.
func (t templates) outputs(results []apply.Result) []cloudformation.Output {
	for _, r := range results {
		arn, err := api.ParseARN(r.ARN)
		if err != nil || r.Key.Owner != "" {
			continue // none, or with the account of another
		}
		t.options.parameters = maps.Clone(t.options.parameters)
		if t.options.parameters == nil {
			t.options.parameters = map[string]string{}
		}
		for name, value := range map[string]string{"AWS::Partition": arn.Partition, "AWS::Region": arn.Region, "AWS::AccountId": arn.Account} {
			if _, said := t.options.parameters[name]; !said {
				t.options.parameters[name] = value
			}
		}
		break
	}
	var out []cloudformation.Output
	for _, p := range t.parse() {
		out = append(out, p.Outputs...)
	}
	return out
}

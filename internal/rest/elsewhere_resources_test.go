package rest_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/evermesh/evermesh/internal/model"
	"github.com/evermesh/evermesh/internal/rest"
)

// Every operation of every service that can be elsewhere is in the table, and what the
// table says of its input is what the model has.
func TestTableOfServicesElsewhere(t *testing.T) {
	t.Parallel()
	models := map[string]*model.Model{}
	told := map[string]map[string]bool{}
	members := regexp.MustCompile(`\{(\w+)=?[^}]*\}|@(\w+)`)
	rest.Abouts(func(service, resource, operations string) {
		if models[service] == nil {
			m, err := model.Named(service)
			if err != nil {
				t.Fatal(err)
			}
			models[service], told[service] = m, map[string]bool{}
		}
		m := models[service]
		for _, op := range strings.Fields(operations) {
			told[service][op] = true
			if m.Operations[op] == nil {
				t.Errorf("%s has no operation %s", service, op)
				continue
			}
			for _, found := range members.FindAllStringSubmatch(resource, -1) {
				if member := found[1] + found[2]; m.Shapes[m.Operations[op].Input.Shape].Members[member].Shape == "" {
					t.Errorf("%s %s: its input has no member %s", service, op, member)
				}
			}
		}
	})
	if len(models) != 11 {
		t.Errorf("the table has %d services: --aws-service offers 11", len(models))
	}
	for service, m := range models {
		for op := range m.Operations {
			if !told[service][op] {
				t.Errorf("nobody says what %s of %s is about", op, service)
			}
		}
	}
	for service, rows := range rest.Conditions() {
		for _, row := range rows {
			for _, member := range strings.Fields(row)[1:] {
				found := false
				for _, op := range models[service].Operations {
					if shape := models[service].Shapes[op.Input.Shape]; shape != nil && shape.Members[member].Shape != "" {
						found = true
					}
				}
				if !found {
					t.Errorf("no input of %s has the member %s", service, member)
				}
			}
		}
	}
}

package settings

import "testing"

func TestLastGood(t *testing.T) {
	for _, test := range []struct {
		dir  string
		want LastGood
		warn bool
	}{
		{"", LastGood{}, false},
		{"none", LastGood{MemoryOnly: true}, false},
		{" /state ", LastGood{Dir: "/state"}, false},
		{"state", LastGood{}, true},
	} {
		v := &variables{getenv: func(name string) string { return map[string]string{"EVERMESH_STATE_DIR": test.dir}[name] }}
		if got := v.lastGood(); got != test.want || len(v.warnings) > 0 != test.warn {
			t.Errorf("%q: got %+v, warnings %q", test.dir, got, v.warnings)
		}
	}
}

//go:build linux

package faults

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/anishathalye/porcupine"
)

// input is one call, output what its caller was answered.
type input struct {
	Verb  verb
	Key   string // mesh/name
	Text  string // what it writes
	Token string // only of those that were sent more than once
}

type output struct {
	Outcome outcome
	State   state  // what was answered; of a list, only whether it exists, and its version
	Listed  bool   // the answer is an item of a list, or its absence
	Code    string // of a refusal, or of what went wrong
}

// world is a resource as the model has it, with the answers that client tokens have claimed: " token=uid/version" each,
// sorted. A uid that no answer has told yet is "?" and the text of the write that made it.
type world struct {
	Now    state
	Tokens string
}

// model is what the API promises of one resource: every call happens at one moment between its begin and its end, on
// whichever replica. A call whose outcome is not known happens at any moment after its begin, or never.
func model() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			var keys []string
			for _, o := range history {
				key := o.Input.(input).Key
				if by[key] == nil {
					keys = append(keys, key)
				}
				by[key] = append(by[key], o)
			}
			slices.Sort(keys)
			var out [][]porcupine.Operation
			for _, key := range keys {
				out = append(out, by[key])
			}
			return out
		},
		Init: func() any { return world{} },
		Step: func(w, in, out any) (bool, any) { return step(w.(world), in.(input), out.(output)) },
		DescribeOperation: func(in, out any) string {
			i, o := in.(input), out.(output)
			return fmt.Sprintf("%s %s %s %s -> %s %+v %s", i.Verb, i.Key, i.Text, i.Token, o.Outcome, o.State, o.Code)
		},
		DescribeState: func(w any) string { return fmt.Sprintf("%+v", w) },
	}
}

func step(w world, in input, out output) (bool, world) {
	if in.Verb == describe {
		return w.shows(out)
	}
	if claimed, ok := w.claimed(in); ok {
		if out.Outcome == unknown {
			return true, w
		}
		return w.answers(claimed, out)
	}
	allowed := w.Now.Exists != (in.Verb == create)
	if !allowed {
		return out.Outcome != done, w
	}
	if out.Outcome == refused {
		return false, w
	}
	answer := state{Exists: true, UID: w.Now.UID, Version: w.Now.Version + 1, Text: in.Text}
	switch in.Verb {
	case create:
		answer.UID, answer.Version = "?"+in.Text, 1
		w.Now = answer
	case update:
		w.Now = answer
	default:
		answer.Exists, answer.Text = false, w.Now.Text
		w.Now = state{}
	}
	w = w.claim(in, answer)
	if out.Outcome == unknown {
		return true, w
	}
	return w.answers(answer, out)
}

// shows says whether the answer of a read is right.
func (w world) shows(out output) (bool, world) {
	switch {
	case out.Outcome != done:
		return true, w // a read without an answer tells nothing
	case out.Listed:
		return out.State.Exists == w.Now.Exists && (!w.Now.Exists || out.State.Version == w.Now.Version), w
	case !w.Now.Exists || !out.State.Exists:
		return w.Now.Exists == out.State.Exists, w
	}
	return w.answers(w.Now, out)
}

// answers says whether what was answered is what the model answers; a uid seen for the first time is known from then on.
func (w world) answers(want state, out output) (bool, world) {
	got := out.State
	if strings.HasPrefix(want.UID, "?") && got.UID != "" {
		made := want.UID
		want.UID = got.UID
		if w.Now.UID == made {
			w.Now.UID = got.UID
		}
		w.Tokens = strings.ReplaceAll(w.Tokens, "="+made+"/", "="+got.UID+"/")
	}
	return out.Outcome == done && want == got, w
}

func (w world) claimed(in input) (state, bool) {
	if in.Token == "" {
		return state{}, false
	}
	for _, t := range strings.Fields(w.Tokens) {
		name, answer, _ := strings.Cut(t, "=")
		if name != in.Token {
			continue
		}
		s := state{Exists: true, Text: in.Text}
		uid, version, _ := strings.Cut(answer, "/")
		s.UID = uid
		if _, err := fmt.Sscan(version, &s.Version); err != nil {
			panic(err) // the model wrote it
		}
		return s, true
	}
	return state{}, false
}

func (w world) claim(in input, answer state) world {
	if in.Token == "" {
		return w
	}
	all := append(strings.Fields(w.Tokens), fmt.Sprintf("%s=%s/%d", in.Token, answer.UID, answer.Version))
	slices.Sort(all)
	w.Tokens = strings.Join(all, " ")
	return w
}

// The model would judge nothing if it could not condemn.
func TestModelCondemns(t *testing.T) {
	t.Parallel()
	at := func(call, ret int64, in input, out output) porcupine.Operation {
		in.Key = "m/n"
		return porcupine.Operation{Input: in, Output: out, Call: call, Return: ret}
	}
	is := func(uid string, version int32, text string) output {
		return output{Outcome: done, State: state{Exists: true, UID: uid, Version: version, Text: text}}
	}
	made := at(0, 1, input{Verb: create, Text: "a", Token: "t"}, is("u", 1, "a"))
	const open = 1 << 60
	for _, c := range []struct {
		name    string
		history []porcupine.Operation
		want    bool
	}{
		{"a read sees what was written", []porcupine.Operation{made, at(2, 3, input{Verb: describe}, is("u", 1, "a"))}, true},
		{"a lost write", []porcupine.Operation{made, at(2, 3, input{Verb: describe}, output{Outcome: done})}, false},
		{"a stale read", []porcupine.Operation{
			made, at(2, 3, input{Verb: update, Text: "b"}, is("u", 2, "b")), at(4, 5, input{Verb: describe}, is("u", 1, "a")),
		}, false},
		{"a stale list", []porcupine.Operation{
			made, at(2, 3, input{Verb: update, Text: "b"}, is("u", 2, "b")),
			at(4, 5, input{Verb: describe}, output{Outcome: done, Listed: true, State: state{Exists: true, Version: 1}}),
		}, false},
		{"two updates at one version", []porcupine.Operation{
			made, at(2, 5, input{Verb: update, Text: "b"}, is("u", 2, "b")), at(2, 5, input{Verb: update, Text: "c"}, is("u", 2, "c")),
		}, false},
		{"an unknown write that shows up late", []porcupine.Operation{
			made, at(2, open, input{Verb: update, Text: "b"}, output{Outcome: unknown}),
			at(3, 4, input{Verb: describe}, is("u", 1, "a")), at(5, 6, input{Verb: describe}, is("u", 2, "b")),
		}, true},
		{"an unknown write that comes and goes", []porcupine.Operation{
			made, at(2, open, input{Verb: update, Text: "b"}, output{Outcome: unknown}),
			at(3, 4, input{Verb: describe}, is("u", 2, "b")), at(5, 6, input{Verb: describe}, is("u", 1, "a")),
		}, false},
		{"a repeat with the token gets the first answer", []porcupine.Operation{
			at(0, open, input{Verb: create, Text: "a", Token: "t"}, output{Outcome: unknown}),
			at(2, 3, input{Verb: create, Text: "a", Token: "t"}, is("u", 1, "a")), at(4, 5, input{Verb: describe}, is("u", 1, "a")),
		}, true},
		{"a repeat that is refused", []porcupine.Operation{
			made, at(2, 3, input{Verb: create, Text: "a", Token: "t"}, output{Outcome: refused}),
		}, false},
		{"an update done twice for one token", []porcupine.Operation{
			made, at(2, open, input{Verb: update, Text: "b", Token: "s"}, output{Outcome: unknown}),
			at(3, 4, input{Verb: describe}, is("u", 2, "b")), at(5, 6, input{Verb: update, Text: "b", Token: "s"}, is("u", 3, "b")),
		}, false},
		{"a uid that changes", []porcupine.Operation{made, at(2, 3, input{Verb: describe}, is("v", 1, "a"))}, false},
		{"a refusal without reason", []porcupine.Operation{made, at(2, 3, input{Verb: update, Text: "b"}, output{Outcome: refused})}, false},
	} {
		if got := porcupine.CheckOperations(model(), c.history); got != c.want {
			t.Errorf("%s: linearizable is %t, want %t", c.name, got, c.want)
		}
	}
}

package publish

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/mesh"
)

// problems gathers what could not be done, over all connected clients: many of
// them find the same fault in the same resource.
type problems struct {
	log      *slog.Logger
	mu       sync.Mutex
	byClient map[mesh.Client][]mesh.Problem
	byKey    map[api.Key][]mesh.Client // those of byClient, as they came
	count    map[mesh.Problem]int
}

// set replaces a client's problems and logs those that nobody had before. It
// says whether they are others now.
func (p *problems) set(c mesh.Client, now []mesh.Problem) (changed bool) {
	p.mu.Lock()
	if len(now) == 0 && len(p.byClient[c]) == 0 {
		p.mu.Unlock()
		return false
	}
	var fresh []mesh.Problem
	if p.byClient == nil {
		p.byClient, p.count = map[mesh.Client][]mesh.Problem{}, map[mesh.Problem]int{}
		p.byKey = map[api.Key][]mesh.Client{}
	}
	old := p.byClient[c]
	for _, x := range now {
		if p.count[x]++; p.count[x] == 1 {
			fresh = append(fresh, x)
		}
	}
	for _, x := range old {
		if p.count[x]--; p.count[x] == 0 {
			delete(p.count, x)
		}
	}
	switch {
	case len(now) == 0:
		delete(p.byClient, c)
		if p.byKey[c.Key] = slices.DeleteFunc(p.byKey[c.Key], func(x mesh.Client) bool { return x == c }); len(p.byKey[c.Key]) == 0 {
			delete(p.byKey, c.Key)
		}
	case len(old) == 0:
		p.byKey[c.Key] = append(p.byKey[c.Key], c)
		fallthrough
	default:
		p.byClient[c] = now
	}
	p.mu.Unlock()
	for _, x := range fresh {
		p.log.Warn("resource has a problem", "key", x.Key.String(), "reason", x.Reason, "problem", x.Message)
	}
	return !slices.Equal(old, now)
}

// ProblemsOf returns the problems that were found for the connected proxies of the
// client's node or gateway, whatever their traits.
func (l *Loop) ProblemsOf(c mesh.Client) []mesh.Problem {
	l.problems.mu.Lock()
	defer l.problems.mu.Unlock()
	var out []mesh.Problem
	for _, client := range l.problems.byKey[c.Key] {
		switch of := l.problems.byClient[client]; {
		case len(out) == 0:
			out = of
		default:
			for _, x := range of {
				if !slices.Contains(out, x) {
					out = append(slices.Clip(out), x)
				}
			}
		}
	}
	return append(l.turns.problems(c.Key), out...)
}

// Problems returns the problems of all connected clients' views, sorted; of one
// key only, when key is not zero.
func (l *Loop) Problems(key api.Key) []mesh.Problem {
	l.problems.mu.Lock()
	var out []mesh.Problem
	for x := range l.problems.count {
		if key == (api.Key{}) || x.Key == key {
			out = append(out, x)
		}
	}
	l.problems.mu.Unlock() // the loop need not wait for the sorting
	out = append(out, l.turns.problems(key)...)
	slices.SortFunc(out, func(a, b mesh.Problem) int {
		k, o := a.Key, b.Key
		return cmp.Or(
			cmp.Compare(k.Owner, o.Owner), cmp.Compare(k.Mesh, o.Mesh), cmp.Compare(k.Kind, o.Kind), cmp.Compare(k.Parent, o.Parent),
			cmp.Compare(k.Name, o.Name), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Message, b.Message),
		)
	})
	return out
}

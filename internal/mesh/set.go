package mesh

import "slices"

// set is a set that is mostly small. The zero value is empty.
type set[T comparable] struct {
	few  []T
	many map[T]struct{} // in place of few, once there are more than a few
}

const mostFew = 8

func (s *set[T]) add(x T) {
	switch {
	case s.many != nil:
		s.many[x] = struct{}{}
	case slices.Contains(s.few, x):
	case len(s.few) < mostFew:
		s.few = append(s.few, x)
	default:
		s.many = make(map[T]struct{}, 2*mostFew)
		for _, y := range s.few {
			s.many[y] = struct{}{}
		}
		s.few = nil
		s.many[x] = struct{}{}
	}
}

func (s *set[T]) remove(x T) {
	if s.many != nil {
		delete(s.many, x)
		return
	}
	if i := slices.Index(s.few, x); i >= 0 {
		last := len(s.few) - 1
		s.few[i] = s.few[last]
		clear(s.few[last:])
		s.few = s.few[:last]
	}
}

func (s *set[T]) len() int { return len(s.few) + len(s.many) }

// all calls yield with each, in no particular order.
func (s *set[T]) all(yield func(T) bool) {
	for _, x := range s.few {
		if !yield(x) {
			return
		}
	}
	for x := range s.many {
		if !yield(x) {
			return
		}
	}
}

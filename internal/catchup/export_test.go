package catchup

import "context"

// At and Again are the parts of Decide, for tests of what happens between them.
func (m *Memory) At() mark { return m.at() }

// Again is at's other half.
func (m *Memory) Again(ctx context.Context, at mark, err error) bool { return m.again(ctx, at, err) }

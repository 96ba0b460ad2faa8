package policy

import (
	"encoding/base64"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// condition is one key under one operator, with the values it may have.
type condition struct {
	operator string // as it is written: ForAnyValue:StringLikeIfExists
	key      string // as KeyName writes it
	values   []string
	quantity quantity
	ifExists bool
	test     test
	not      bool // it is met when no value fits

	// The values, for each test in the form it wants.
	texts   []template
	arns    []arnTemplate
	numbers []*big.Rat
	times   []time.Time
	nets    []netip.Prefix
	bytes   []string
}

// quantity is how many of a request's values must fit.
type quantity uint8

const (
	single quantity = iota // the key has one value
	forAll                 // every value; met when there is none
	forAny                 // at least one
)

// test is what an operator compares by.
type test uint8

const (
	textEquals test = iota
	textFolds
	textLike
	arnLike
	numberEquals
	numberLess
	numberLessEquals
	numberGreater
	numberGreaterEquals
	timeEquals
	timeLess
	timeLessEquals
	timeGreater
	timeGreaterEquals
	boolEquals
	bytesEqual
	inNet
	absent
)

// operators are IAM's condition operators, by name in lower case.
var operators = map[string]struct {
	test test
	not  bool
}{
	"stringequals": {textEquals, false}, "stringnotequals": {textEquals, true},
	"stringequalsignorecase": {textFolds, false}, "stringnotequalsignorecase": {textFolds, true},
	"stringlike": {textLike, false}, "stringnotlike": {textLike, true},
	"numericequals": {numberEquals, false}, "numericnotequals": {numberEquals, true},
	"numericlessthan": {numberLess, false}, "numericlessthanequals": {numberLessEquals, false},
	"numericgreaterthan": {numberGreater, false}, "numericgreaterthanequals": {numberGreaterEquals, false},
	"dateequals": {timeEquals, false}, "datenotequals": {timeEquals, true},
	"datelessthan": {timeLess, false}, "datelessthanequals": {timeLessEquals, false},
	"dategreaterthan": {timeGreater, false}, "dategreaterthanequals": {timeGreaterEquals, false},
	"bool": {boolEquals, false}, "binaryequals": {bytesEqual, false},
	"ipaddress": {inNet, false}, "notipaddress": {inNet, true},
	"arnequals": {arnLike, false}, "arnlike": {arnLike, false},
	"arnnotequals": {arnLike, true}, "arnnotlike": {arnLike, true},
	"null": {absent, false},
}

func (p *parser) conditions(n *node) ([]condition, error) {
	if n.kind != isObject {
		return nil, p.fault(n.start, "Condition must be an object of operators")
	}
	var all []condition
	for i, operator := range n.names {
		keys := n.members[i]
		if keys.kind != isObject {
			return nil, p.fault(keys.start, "%s must be an object of condition keys", operator.text)
		}
		for j, key := range keys.names {
			c, err := p.condition(operator, key, keys.members[j])
			if err != nil {
				return nil, err
			}
			all = append(all, c)
		}
	}
	return all, nil
}

func (p *parser) condition(operator, key name, n *node) (condition, error) {
	c := condition{operator: operator.text, key: KeyName(key.text)}
	op := lower(operator.text)
	if base, ok := strings.CutPrefix(op, "forallvalues:"); ok {
		op, c.quantity = base, forAll
	} else if base, ok := strings.CutPrefix(op, "foranyvalue:"); ok {
		op, c.quantity = base, forAny
	}
	op, c.ifExists = strings.CutSuffix(op, "ifexists")
	row, ok := operators[op]
	if !ok || row.test == absent && (c.ifExists || c.quantity != single) {
		return c, p.fault(operator.start, "there is no condition operator %q", operator.text)
	}
	c.test, c.not = row.test, row.not
	if !strings.Contains(key.text, ":") {
		return c, p.wrong(&node{start: key.start}, "Actions/Conditions must be prefaced by a vendor, e.g., iam, sdb, ec2, etc.")
	}
	for _, member := range n.list() {
		text, ok := scalar(member)
		if member.kind != isValue || !ok {
			return c, p.fault(member.start, "a condition's value must be a string, a number or a bool, or a list of them")
		}
		if what := c.add(text, p.dialect); what != "" {
			return c, p.fault(member.start, "%q is not %s, which %s wants", text, what, operator.text)
		}
	}
	return c, nil
}

// add takes a value; what it should have been, if it cannot be read.
func (c *condition) add(text string, d dialect) (what string) {
	c.values = append(c.values, text)
	ok := true
	switch c.test {
	case textEquals, textFolds:
		c.texts = append(c.texts, d.template(text))
	case textLike:
		d.wildcards = true
		c.texts = append(c.texts, d.template(text))
	case arnLike:
		c.arns = append(c.arns, d.arn(text))
		return ""
	case numberEquals, numberLess, numberLessEquals, numberGreater, numberGreaterEquals:
		var n *big.Rat
		n, ok = number(text)
		c.numbers, what = append(c.numbers, n), "a number"
	case timeEquals, timeLess, timeLessEquals, timeGreater, timeGreaterEquals:
		var t time.Time
		t, ok = date(text)
		c.times, what = append(c.times, t), "a time such as 2026-01-31T12:00:00Z"
	case boolEquals, absent:
		ok, what = lower(text) == "true" || lower(text) == "false", "true or false"
	case bytesEqual:
		var b []byte
		var err error
		b, err = base64.StdEncoding.DecodeString(text)
		ok, what = err == nil, "base64"
		c.bytes = append(c.bytes, string(b))
	case inNet:
		var n netip.Prefix
		n, ok = network(text)
		c.nets, what = append(c.nets, n), "an address or a network such as 203.0.113.0/24"
	}
	if ok {
		return ""
	}
	return what
}

// longestNumber is how many characters a number may have.
const longestNumber = 64

func number(text string) (*big.Rat, bool) {
	if len(text) > longestNumber || strings.ContainsAny(text, "/_xXpPbBoOeE") {
		return nil, false
	}
	return new(big.Rat).SetString(text)
}

// dateForms are those of ISO 8601 that W3C's profile has.
var dateForms = []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05", "2006-01-02", "2006-01", "2006"}

// date reads a time, or seconds since 1970.
func date(text string) (time.Time, bool) {
	for _, form := range dateForms {
		if t, err := time.Parse(form, text); err == nil {
			return t, true
		}
	}
	if len(text) <= 4 { // that is a year
		return time.Time{}, false
	}
	n, ok := number(text)
	if !ok {
		return time.Time{}, false
	}
	seconds, _ := n.Float64()
	if seconds < -1e11 || seconds > 1e12 {
		return time.Time{}, false
	}
	whole := int64(seconds)
	return time.Unix(whole, int64((seconds-float64(whole))*1e9)).UTC(), true
}

// network reads a network, or an address as the network that has only it.
func network(text string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(text); err == nil {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

// met says whether the request meets the condition. Of a Deny, a variable without a
// value meets what is negated; of an Allow, nothing.
func (c *condition) met(keys Keys, effect Effect) bool {
	values := lookup(keys, c.key)
	switch {
	case c.test == absent:
		return slices.ContainsFunc(c.values, func(v string) bool { return (lower(v) == "true") == (len(values) == 0) })
	case len(values) == 0:
		return c.ifExists || c.quantity == forAll || c.not && c.quantity != forAny
	}
	known := true
	one := func(value string) bool {
		fits, ok := c.fits(value, keys)
		known = known && ok
		return fits
	}
	met := false
	switch c.quantity {
	case single:
		// More values than one: it is met when one fits or, negated, when none does.
		met = slices.ContainsFunc(values, one) != c.not
	case forAll:
		met = !slices.ContainsFunc(values, func(v string) bool { return one(v) == c.not })
	case forAny:
		met = slices.ContainsFunc(values, func(v string) bool { return one(v) != c.not })
	}
	return met && (known || !c.not || effect == Deny)
}

// fits says whether one value of the request is among those of the condition; known is
// false when a variable among them has no value.
func (c *condition) fits(value string, keys Keys) (fits, known bool) {
	known = true
	switch c.test {
	case textEquals, textFolds, textLike:
		for i := range c.texts {
			g, ok := c.texts[i].glob(keys)
			known = known && ok
			if ok && c.textFits(g, value) {
				return true, true
			}
		}
		return false, known
	case arnLike:
		a := newARN(value)
		for i := range c.arns {
			fits, ok := c.arns[i].match(&a, keys)
			known = known && ok
			if fits {
				return true, true
			}
		}
		return false, known
	case boolEquals:
		return slices.ContainsFunc(c.values, func(v string) bool { return lower(v) == lower(value) }), true
	case bytesEqual:
		b, err := base64.StdEncoding.DecodeString(value)
		return err == nil && slices.Contains(c.bytes, string(b)), true
	case inNet:
		a, err := netip.ParseAddr(value)
		return err == nil && slices.ContainsFunc(c.nets, func(n netip.Prefix) bool { return n.Contains(a.WithZone("").Unmap()) }), true
	case timeEquals, timeLess, timeLessEquals, timeGreater, timeGreaterEquals:
		t, ok := date(value)
		return ok && slices.ContainsFunc(c.times, func(wanted time.Time) bool { return orders(c.test-timeEquals, t.Compare(wanted)) }), true
	}
	n, ok := number(value)
	return ok && slices.ContainsFunc(c.numbers, func(wanted *big.Rat) bool { return orders(c.test-numberEquals, n.Cmp(wanted)) }), true
}

// orders says whether a comparison's result is what a test wants: equal, less, less or
// equal, greater, greater or equal.
func orders(t test, result int) bool {
	switch t {
	case 0:
		return result == 0
	case 1:
		return result < 0
	case 2:
		return result <= 0
	case 3:
		return result > 0
	}
	return result >= 0
}

func (c *condition) textFits(g glob, value string) bool {
	switch c.test {
	case textLike:
		return g.match(value)
	case textFolds:
		return folds(g[0], value)
	}
	return g[0] == value
}

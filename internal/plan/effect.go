package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/evermesh/evermesh/internal/envoy"
)

// effect is what people notice of a listener that changes.
type effect struct {
	drains bool
	texts  []string
}

// listenerEffect says what Envoy does to a listener's connections when it
// changes, and which statistics get other names. Where nothing but filter chains
// differ, Envoy keeps the connections of those that stay as they are, and drains
// those of the others; else it replaces the listener, and drains them all.
func listenerEffect(before, after *envoy.Resource) effect {
	if before == nil {
		return effect{}
	}
	if after == nil {
		return effect{true, []string{"all its connections are drained: the listener goes"}}
	}
	old, now := &listenerv3.Listener{}, &listenerv3.Listener{}
	if before.UnmarshalTo(old) != nil || after.UnmarshalTo(now) != nil {
		return effect{drains: true} // they were made by us
	}
	c := compared{drained: map[string][]string{}, renamed: map[string]string{}}
	c.chains(old.GetFilterChains(), now.GetFilterChains())
	var out effect
	if fields := differing(old, now, "filter_chains"); len(fields) > 0 {
		out.drains = true
		out.texts = append(out.texts, fmt.Sprintf("all its connections are drained: Envoy replaces the listener, as the %s", changes(fields)))
	} else {
		for _, why := range slices.Sorted(maps.Keys(c.drained)) {
			out.drains = true
			out.texts = append(out.texts, fmt.Sprintf("connections %s are drained: %s", enumerate(c.drained[why]), why))
		}
	}
	for _, from := range slices.Sorted(maps.Keys(c.renamed)) {
		out.texts = append(out.texts, fmt.Sprintf("statistics are renamed: %s becomes %s", from, c.renamed[from]))
	}
	return out
}

// compared is what differs between the filter chains of two listeners.
type compared struct {
	drained map[string][]string // why: which connections
	renamed map[string]string   // names of statistics
}

// chains pairs those that take the same connections.
func (c *compared) chains(old, now []*listenerv3.FilterChain) {
	for _, was := range old {
		var is *listenerv3.FilterChain
		for _, candidate := range now {
			if proto.Equal(was.GetFilterChainMatch(), candidate.GetFilterChainMatch()) {
				is = candidate
			}
		}
		switch {
		case is == nil:
			c.drained["nothing takes them any more"] = append(c.drained["nothing takes them any more"], taken(was))
		case !proto.Equal(was, is):
			why := "the " + changes(c.chain(was, is))
			c.drained[why] = append(c.drained[why], taken(was))
		}
		if is == nil {
			c.followed(was, now)
		}
	}
}

// followed finds the statistics of a chain that goes under those of one that
// takes the same port otherwise, such as by TLS.
func (c *compared) followed(was *listenerv3.FilterChain, now []*listenerv3.FilterChain) {
	for _, is := range now {
		if is.GetFilterChainMatch().GetDestinationPort().GetValue() == was.GetFilterChainMatch().GetDestinationPort().GetValue() {
			c.rename(was, is)
			return
		}
	}
}

// chain names what differs between two chains.
func (c *compared) chain(was, is *listenerv3.FilterChain) []string {
	out := differing(was, is, "filters", "filter_chain_match")
	c.rename(was, is)
	for i, f := range was.GetFilters() {
		if i >= len(is.GetFilters()) {
			break
		}
		out = append(out, differingAny(f.GetTypedConfig(), is.GetFilters()[i].GetTypedConfig())...)
	}
	if len(was.GetFilters()) != len(is.GetFilters()) {
		out = append(out, "filters")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *compared) rename(was, is *listenerv3.FilterChain) {
	from, to := statistics(was), statistics(is)
	if from != "" && to != "" && from != to {
		c.renamed[from] = to
	}
}

// statistics is the beginning of the names of a chain's statistics.
func statistics(chain *listenerv3.FilterChain) string {
	for _, f := range chain.GetFilters() {
		m, err := f.GetTypedConfig().UnmarshalNew()
		if err != nil {
			continue
		}
		switch m := m.(type) {
		case *hcmv3.HttpConnectionManager:
			return "http." + m.GetStatPrefix()
		case *tcpv3.TcpProxy:
			return "tcp." + m.GetStatPrefix()
		}
	}
	return ""
}

// taken says which connections a chain takes.
func taken(chain *listenerv3.FilterChain) string {
	m := chain.GetFilterChainMatch()
	out := "of every port"
	if port := m.GetDestinationPort(); port != nil {
		out = fmt.Sprintf("to port %d", port.GetValue())
	}
	switch m.GetTransportProtocol() {
	case "raw_buffer":
		out += " in plaintext"
	case "tls":
		out += " by TLS"
	}
	if names := m.GetServerNames(); len(names) > 0 {
		out += " for " + enumerate(names)
	}
	return out
}

// words are the fields of Envoy's messages that have a plain word.
var words = map[string]string{
	"access_log":        "access log",
	"transport_socket":  "TLS",
	"stat_prefix":       "names of statistics",
	"listener_filters":  "way to look at what comes in",
	"weighted_clusters": "targets",
	"cluster":           "targets",
	"rds":               "route configuration",
	"address":           "address",
	"name":              "name",
	"typed_config":      "kind of filter",
}

// differing names the fields, in plain words, in which two messages of one type
// differ, but for those left out.
func differing(a, b proto.Message, without ...protoreflect.Name) []string {
	var out []string
	fields := a.ProtoReflect().Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if slices.Contains(without, f.Name()) {
			continue
		}
		if !a.ProtoReflect().Get(f).Equal(b.ProtoReflect().Get(f)) || a.ProtoReflect().Has(f) != b.ProtoReflect().Has(f) {
			out = append(out, word(f.Name()))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func word(name protoreflect.Name) string {
	if w, ok := words[string(name)]; ok {
		return w
	}
	return strings.ReplaceAll(string(name), "_", " ")
}

// differingAny is differing for two packed messages.
func differingAny(a, b *anypb.Any) []string {
	if proto.Equal(a, b) {
		return nil
	}
	x, err := a.UnmarshalNew()
	if err != nil {
		return []string{words["typed_config"]}
	}
	y, err := b.UnmarshalNew()
	if err != nil || x.ProtoReflect().Descriptor() != y.ProtoReflect().Descriptor() {
		return []string{words["typed_config"]}
	}
	return differing(x, y)
}

// changes says that fields change.
func changes(fields []string) string {
	if len(fields) == 1 && !strings.HasSuffix(fields[0], "s") || fields[0] == "TLS" && len(fields) == 1 {
		return fields[0] + " changes"
	}
	return enumerate(fields) + " change"
}

// enumerate joins words as a sentence does.
func enumerate(all []string) string {
	if len(all) < 2 {
		return strings.Join(all, "")
	}
	return strings.Join(all[:len(all)-1], ", ") + " and " + all[len(all)-1]
}

package rest_test

import (
	"encoding/json"
	"strconv"

	"github.com/evermesh/evermesh/internal/api"
)

// fit changes a document that keeps the model so that it keeps the rules too:
// what it refers to exists, and what must agree agrees. It leaves alone what no
// rule is about.
func fit(kind api.Kind, doc map[string]any) {
	fitPatterns(doc)
	switch kind {
	case api.KindVirtualNode, api.KindVirtualGateway:
		fitListeners(doc)
		if listeners, _ := doc["listeners"].([]any); len(listeners) == 0 {
			delete(doc, "serviceDiscovery")
		}
		fitNames(doc)
	case api.KindVirtualRouter:
		if listeners, has := doc["listeners"].([]any); has && len(listeners) == 0 {
			delete(doc, "listeners")
		}
		fitListeners(doc)
	case api.KindVirtualService:
		if provider, has := doc["provider"].(map[string]any); has {
			for member, name := range map[string]string{"virtualNode": "n", "virtualRouter": "r"} {
				if p, is := provider[member].(map[string]any); is {
					p[member+"Name"] = name
				}
			}
		}
	case api.KindRoute:
		only(doc, "httpRoute", "http2Route", "grpcRoute", "tcpRoute")
		for member := range doc {
			if route, is := doc[member].(map[string]any); is {
				fitRoute(route)
			}
		}
	case api.KindGatewayRoute:
		only(doc, "httpRoute", "http2Route", "grpcRoute")
		for member := range doc {
			if route, is := doc[member].(map[string]any); is {
				fitGatewayRoute(route)
			}
		}
	}
}

// fitListeners gives listeners different ports and pools their protocol.
func fitListeners(doc map[string]any) {
	listeners, _ := doc["listeners"].([]any)
	for i, l := range listeners {
		mapping := l.(map[string]any)["portMapping"].(map[string]any)
		mapping["port"] = json.Number(strconv.Itoa(1000 + i))
		pool, _ := l.(map[string]any)["connectionPool"].(map[string]any)
		for protocol := range pool {
			mapping["protocol"] = protocol
		}
	}
}

// fitNames makes host names of all subject alternative names.
func fitNames(v any) {
	switch v := v.(type) {
	case map[string]any:
		if names, has := v["subjectAlternativeNames"].(map[string]any); has {
			exact, _ := names["match"].(map[string]any)["exact"].([]any)
			for i := range exact {
				exact[i] = "a.example"
			}
		}
		for _, member := range v {
			fitNames(member)
		}
	case []any:
		for _, item := range v {
			fitNames(item)
		}
	}
}

// fitPatterns makes patterns of all regular expressions.
func fitPatterns(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, has := v["regex"].(string); has {
			v["regex"] = "a.*"
		}
		for _, member := range v {
			fitPatterns(member)
		}
	case []any:
		for _, item := range v {
			fitPatterns(item)
		}
	}
}

// only leaves one of the members, and makes a first one where there is none.
func only(doc map[string]any, members ...string) {
	found := false
	for _, m := range members {
		if _, has := doc[m]; has && found {
			delete(doc, m)
		} else if has {
			found = true
		}
	}
	if !found {
		target := map[string]any{"virtualService": map[string]any{"virtualServiceName": "s"}}
		targets := []any{map[string]any{"virtualNode": "n", "weight": json.Number("0")}}
		doc[members[0]] = map[string]any{"match": map[string]any{}, "action": map[string]any{"target": target, "weightedTargets": targets}}
		action := doc[members[0]].(map[string]any)["action"].(map[string]any)
		if len(members) == 4 {
			delete(action, "target")
		} else {
			delete(action, "weightedTargets")
		}
	}
}

func fitRoute(route map[string]any) {
	targets, _ := route["action"].(map[string]any)["weightedTargets"].([]any)
	for _, t := range targets {
		t.(map[string]any)["virtualNode"] = "n"
	}
	match, _ := route["match"].(map[string]any)
	fitPath(match)
	if _, has := match["methodName"]; has {
		match["serviceName"] = "books"
	}
	policy, _ := route["retryPolicy"].(map[string]any)
	events, _ := policy["httpRetryEvents"].([]any)
	for i := range events {
		events[i] = "stream-error"
	}
}

func fitGatewayRoute(route map[string]any) {
	action := route["action"].(map[string]any)
	action["target"].(map[string]any)["virtualService"] = map[string]any{"virtualServiceName": "s"}
	match, _ := route["match"].(map[string]any)
	fitPath(match)
	if hostname, has := match["hostname"].(map[string]any); has {
		delete(hostname, "suffix")
		hostname["exact"] = "a.example"
	}
	rewrite, _ := action["rewrite"].(map[string]any)
	if _, has := match["path"]; !has {
		delete(rewrite, "path")
	} else if path, rewrites := rewrite["path"].(map[string]any); rewrites {
		path["exact"] = "/kept"
	}
	if _, has := match["prefix"]; !has {
		delete(rewrite, "prefix")
	} else if prefix, rewrites := rewrite["prefix"].(map[string]any); rewrites {
		delete(prefix, "defaultPrefix")
		prefix["value"] = "/kept/"
	}
}

// fitPath leaves a match one absolute path, if it has any.
func fitPath(match map[string]any) {
	path, has := match["path"].(map[string]any)
	if prefix, also := match["prefix"].(string); also {
		delete(match, "path")
		match["prefix"] = "/" + prefix
		return
	}
	if has {
		delete(path, "regex")
		path["exact"] = "/kept"
	}
}

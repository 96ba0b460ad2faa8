//go:build linux

package fields

import (
	"fmt"
	"slices"
)

// tlsScenes show the TLS of listeners and of client policies. In the one kind a
// host outside the mesh calls a node's or gateway's Envoy; in the other a client, or
// a host outside the mesh through a gateway, calls web.local, whose application speaks
// TLS at port 8086 and plaintext at 8080.
func tlsScenes() []scene {
	node := tlsScene("node tls", "virtualNode/server")
	node.base = fmt.Sprintf(`
- kind: virtualNode
  name: client
- kind: virtualNode
  name: server
  spec:
    listeners: [{portMapping: {port: 8080, protocol: http}}]
    serviceDiscovery: {dns: {hostname: server.%s}}
`, node.mesh())
	node.fields = terminationFields(node, "virtualNode server listeners[0].tls", "server."+node.mesh()+":8080/")

	gateway := tlsScene("gateway tls", "virtualGateway/gate")
	gateway.base = web(gateway, 8080) + gate
	gateway.fields = terminationFields(gateway, "virtualGateway gate listeners[0].tls", "gate."+gateway.mesh()+":8080/")

	backends := tlsScene("client policies", "virtualNode/client")
	backends.base = web(backends, 8086) + `
- kind: virtualNode
  name: client
  spec: {backends: [{virtualService: {virtualServiceName: web.local}}]}
`
	at := func(port int) ask { return get(fmt.Sprintf("web.local:%d/", port)) }
	backends.fields = slices.Concat(
		policyFields(backends, "virtualNode client backends[0].virtualService.clientPolicy.tls", at),
		policyFields(backends, "virtualNode client backendDefaults.clientPolicy.tls", at))

	behind := tlsScene("gateway client policies", "virtualGateway/gate")
	behind.base = web(behind, 8086) + gate
	behind.fields = policyFields(behind, "virtualGateway gate backendDefaults.clientPolicy.tls",
		func(int) ask { return get("gate." + behind.mesh() + ":8080/") })
	return []scene{node, gateway, backends, behind}
}

func tlsScene(name, envoy string) scene {
	return scene{name: name, envoys: []string{envoy}, tls: true}
}

// web is the virtual service web.local, which the node server provides at the
// port.
func web(s scene, port int) string {
	return fmt.Sprintf(`
- kind: virtualNode
  name: server
  spec:
    listeners: [{portMapping: {port: %d, protocol: http}}]
    serviceDiscovery: {dns: {hostname: server.%s}}
- kind: virtualService
  name: web.local
  spec: {provider: {virtualNode: {virtualNodeName: server}}}
`, port, s.mesh())
}

// gate is a gateway that leads to web.local, and a host outside the mesh.
const gate = `
- kind: virtualNode
  name: client
- kind: virtualGateway
  name: gate
  spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}
- kind: gatewayRoute
  parent: gate
  name: all
  spec: {httpRoute: {match: {prefix: /}, action: {target: {virtualService: {virtualServiceName: web.local}}}}}
`

// What certificates and trust come from.
const (
	fileOne  = `{"file": {"certificateChain": "./one.pem", "privateKey": "./one.key"}}`
	sdsOne   = `{"sds": {"secretName": "one"}}`
	trustOne = `{"file": {"certificateChain": "./ca-one.pem"}}`
)

// terminationFields are the cases of a listener's tls; target is where it is
// called.
func terminationFields(s scene, tls, target string) []field {
	listen := func(certificate, more string) string {
		return fmt.Sprintf(`%s = {"mode": "STRICT", "certificate": %s%s}`, tls, certificate, more)
	}
	mutual := func(trust, more string) string {
		return listen(fileOne, `, "validation": {"trust": `+trust+more+`}`)
	}
	stranger, one := get(target).tls(""), get(target).tls("one")
	edit := func(member, value string) string { return tls + "." + member + " = " + value }
	const asOne, asTwo = "server as one.example, 1 in its chain", "server as two.example, 1 in its chain"
	return []field{
		{
			given: listen(fileOne, ""), change: edit("mode", `"PERMISSIVE"`),
			see: all(get(target).app, stranger.server), before: "reset, " + asOne, after: "server, " + asOne,
		},
		{
			title: "off", given: listen(fileOne, ""), change: edit("mode", `"DISABLED"`),
			see: all(get(target).app, stranger.server), before: "reset, " + asOne, after: "server, refused",
		},
		{
			given: listen(fileOne, ""), change: edit("certificate.file.certificateChain", `"./one-and-root.pem"`),
			see: stranger.server, before: asOne, after: "server as one.example, 2 in its chain",
		},
		{
			given: listen(fileOne, ""), change: edit("certificate.file.privateKey", `"./two.key"`),
			see: stranger.server, before: asOne, after: "refused",
		},
		{
			given: listen(sdsOne, ""), change: edit("certificate.sds.secretName", `"two"`),
			see: stranger.server, before: asOne, after: asTwo,
		},
		{
			given:  listen(`{"acm": {"certificateArn": "`+s.certificateARN("one")+`"}}`, ""),
			change: edit("certificate.acm.certificateArn", `"`+s.certificateARN("two")+`"`),
			see:    stranger.server, before: asOne, after: asTwo,
		},
		{
			given: mutual(trustOne, ""), change: edit("validation.trust.file.certificateChain", `"./ca-two.pem"`),
			see: all(one.server, stranger.server), before: asOne + ", refused", after: "refused, refused",
		},
		{
			given: mutual(`{"sds": {"secretName": "ca-one"}}`, ""), change: edit("validation.trust.sds.secretName", `"ca-two"`),
			see: all(one.server, stranger.server), before: asOne + ", refused", after: "refused, refused",
		},
		{
			given:  mutual(trustOne, `, "subjectAlternativeNames": {"match": {"exact": ["one.example"]}}`),
			change: edit("validation.subjectAlternativeNames.match.exact[0]", `"two.example"`),
			see:    all(one.server, get(target).tls("two").server), before: asOne + ", refused", after: "refused, " + asOne,
		},
		{
			title: "PERMISSIVE", ids: "MTLS-009",
			given:  mutual(trustOne, `, "subjectAlternativeNames": {"match": {"exact": ["one.example"]}}`) + "\n" + edit("mode", `"PERMISSIVE"`),
			change: edit("validation.subjectAlternativeNames.match.exact[0]", `"two.example"`),
			see:    all(one.server, get(target).tls("two").server, stranger.server), before: asOne + ", " + asOne + ", " + asOne, after: asOne + ", " + asOne + ", " + asOne,
			ignored: "subjectAlternativeNames has no effect while the mode is PERMISSIVE",
		},
		{
			title: "DISABLED",
			given: mutual(trustOne, "") + "\n" + edit("mode", `"DISABLED"`), change: edit("validation.trust.file.certificateChain", `"./ca-two.pem"`),
			see: get(target).app, before: "server", after: "server",
			ignored: "tls.validation has no effect while the mode is DISABLED",
		},
	}
}

// policyFields are the cases of a client policy's tls; at is a request to
// web.local at a port.
func policyFields(s scene, tls string, at func(port int) ask) []field {
	policy := func(more, trust string) string {
		return fmt.Sprintf(`%s = {%s"validation": {"trust": %s, "subjectAlternativeNames": {"match": {"exact": ["server.example"]}}}}`, tls, more, trust)
	}
	secure := at(8086)
	edit := func(member, value string) string { return tls + "." + member + " = " + value }
	plain := "virtualNode server listeners[0].portMapping.port = 8080\n"
	const byTLS, fromOne = "server by TLS", "server by TLS from one.example, 1 in its chain"
	return []field{
		{
			given: plain + policy(`"enforce": true, `, trustOne), change: edit("enforce", "false"),
			see: at(8080).secure, before: "503", after: "server in plaintext",
		},
		{
			given: plain + policy(`"ports": [8080], `, trustOne), change: edit("ports[0]", "8085"),
			see: at(8080).secure, before: "503", after: "server in plaintext",
		},
		{
			given: policy(`"certificate": `+fileOne+`, `, trustOne), change: edit("certificate.file.certificateChain", `"./one-and-root.pem"`),
			see: secure.secure, before: fromOne, after: "server by TLS from one.example, 2 in its chain",
		},
		{
			given: policy(`"certificate": `+fileOne+`, `, trustOne), change: edit("certificate.file.privateKey", `"./two.key"`),
			see: secure.secure, before: fromOne, after: "503",
		},
		{
			given: policy(`"certificate": `+sdsOne+`, `, trustOne), change: edit("certificate.sds.secretName", `"two"`),
			see: secure.secure, before: fromOne, after: "server by TLS from two.example, 1 in its chain",
		},
		{
			given: policy("", trustOne), change: edit("validation.trust.file.certificateChain", `"./ca-two.pem"`),
			see: secure.secure, before: byTLS, after: "503",
		},
		{
			given: policy("", `{"sds": {"secretName": "ca-one"}}`), change: edit("validation.trust.sds.secretName", `"ca-two"`),
			see: secure.secure, before: byTLS, after: "503",
		},
		{
			given:  policy("", `{"acm": {"certificateAuthorityArns": ["`+s.authorityARN("one")+`"]}}`),
			change: edit("validation.trust.acm.certificateAuthorityArns[0]", `"`+s.authorityARN("two")+`"`),
			see:    secure.secure, before: byTLS, after: "503",
		},
		{
			given: policy("", trustOne), change: edit("validation.subjectAlternativeNames.match.exact[0]", `"other.example"`),
			see: secure.secure, before: byTLS, after: "503",
		},
	}
}

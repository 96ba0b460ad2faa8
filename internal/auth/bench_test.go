package auth_test

import (
	"testing"
)

// What a signature costs the server, the key of the day derived already.
func BenchmarkVerify(b *testing.B) {
	const body = `{"spec": {"httpRoute": {"match": {"prefix": "/"}, "action": {"weightedTargets": [{"virtualNode": "a", "weight": 1}]}}}}`
	for _, c := range []struct{ name, method, path, body string }{
		{"PUT", "PUT", "/v20190125/meshes/apps/virtualRouter/r/routes/main", body},
		{"GET with a query", "GET", "/v20190125/meshes/apps/virtualNodes?limit=5&nextToken=abc", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := request(b, c.method, "http://127.0.0.1:7070"+c.path, c.body, "Content-Type", "application/json")
			sign(b, r, lasting, "us-east-1", "appmesh", hash(c.body), noon)
			in := arrived(b, r)
			v := verifier(noon)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

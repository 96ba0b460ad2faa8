// Package fields shows of every leaf field of the App Mesh model what a real
// Envoy does about it: docs/fields.md is written by these tests, a row for each
// leaf, and a leaf without a row fails them.
//
// Read it in this order. The leaves come from the model (leaves_test.go). A scene
// (scene_test.go) is a small mesh with a few Envoys; its resources are text in its
// base, and every virtual node in it is a host of that name with an application
// (app_test.go) on all its ports. A field (field_test.go) is one leaf in a scene:
// what is given first, the one change, and what a probe (probe_test.go) sees
// before and after it. World (world_test.go) is what all scenes share: a ground
// with a network namespace for each host, and the management service.
//
// # How a leaf is shown
//
// A case is a line or two in the scene that fits; the scenes are listed in
// table_test.go.
//
//	{
//		given:  `route web/main httpRoute.match.headers = [{"name": "x-a", "match": {"exact": "1"}}]`,
//		change: `route web/main httpRoute.match.headers[0].match.exact = "2"`,
//		see:    get("/", "x-a: 1"),
//		before: "green", after: "blue",
//	},
//
// A line of given or change is KIND NAME PATH = JSON; the name of a route is
// ROUTER/ROUTE, the mesh has none. null takes a member or an element away; an
// element one past the end of a list is added. The change is of one leaf, whose path
// names the case: RouteSpec.httpRoute.match.headers[].match.exact. The API must take
// what is given and what is changed, or must refuse the change with the text in
// refused: then there is no probe. Where App Mesh ignores a field, ignored has the
// problem that is reported instead.
//
// For each case in turn the scene's Envoys get the configuration of the base with
// what is given, the probe looks, the change follows, and the probe looks again. What
// it sees is a few words; both must be as the case says, and differ. Scenes run side
// by side, cases of a scene one after the other: so a scene has few Envoys and many
// cases, and a probe that has to wait for long belongs into a scene of its own.
//
// The golden of a case is the difference that its change makes in the configuration
// of the scene's Envoys: a section of testdata/SCENE.txtar. For a case that the API
// refuses it is the refusal.
//
//	go test ./test/fields -update                        writes goldens, and docs/fields.md when all cases have passed
//	go test ./test/fields -run 'TestFields/http routes'  runs one scene
package fields

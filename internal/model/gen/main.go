// Command gen writes the Go types of package api from the service models, so
// that nothing the models say is typed by hand. Run it from the module's root
// as `go run ./internal/model/gen`; with -check it writes nothing and exits 1
// when a generated file is out of date.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"go/format"
	"os"
	"path/filepath"

	"github.com/evermesh/evermesh/internal/model"
)

func main() {
	check := flag.Bool("check", false, "write nothing; exit 1 when a generated file is out of date")
	flag.Parse()
	if err := run(*check); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(check bool) error {
	appMesh, err := model.AppMesh()
	if err != nil {
		return err
	}
	evermesh, err := model.Evermesh()
	if err != nil {
		return err
	}
	files := map[string][]byte{
		"internal/api/types_gen.go":    source(appMesh, nil),
		"internal/api/evermesh_gen.go": source(evermesh, appMesh),
	}
	for service, name := range neighbours() {
		m, err := model.Named(service)
		if err != nil {
			return err
		}
		files["internal/api/"+name+"/types_gen.go"] = neighbour(m, name)
	}
	for path, text := range files {
		want, err := format.Source(text)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		got, err := os.ReadFile(path)
		if err == nil && bytes.Equal(got, want) {
			continue
		}
		if check {
			return fmt.Errorf("%s is out of date: run `make generate`", path)
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// neighbours are the services around the mesh, and the packages of their types.
func neighbours() map[string]string {
	return map[string]string{
		"iam": "iamapi", "sts": "stsapi", "eks": "eksapi", "eks-auth": "eksauthapi", "ram": "ramapi",
		"servicequotas": "quotasapi", "cloudtrail": "trailapi", "servicediscovery": "cloudmapapi",
		"acm": "acmapi", "acm-pca": "pcaapi", "tagging": "taggingapi",
	}
}

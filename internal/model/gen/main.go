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
		if err := os.WriteFile(path, want, 0o644); err != nil {
			return err
		}
	}
	return nil
}

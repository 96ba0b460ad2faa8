package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/evermesh/evermesh/internal/client"
)

// writeFacts tells local tools about this control plane, in its data directory.
func writeFacts(dir string, f client.Facts) error {
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", client.FactsFile, err)
	}
	name := filepath.Join(dir, client.FactsFile)
	temp := name + ".new"
	if err := os.WriteFile(temp, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", client.FactsFile, err)
	}
	if err := os.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: %w", client.FactsFile, err)
	}
	return nil
}

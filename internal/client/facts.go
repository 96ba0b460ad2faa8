package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// FactsFile is where evermeshd tells local tools about itself, in its data
// directory. It holds no secret.
const FactsFile = "evermesh.json"

// Facts is what that file says of a running control plane. File names are
// absolute, or relative to the data directory.
type Facts struct {
	APIEndpoint string `json:"apiEndpoint"` // http://127.0.0.1:7070
	XDSEndpoint string `json:"xdsEndpoint"` // as APPMESH_XDS_ENDPOINT takes it
	Region      string `json:"region"`
	Partition   string `json:"partition"`
	Account     string `json:"account"`
	CABundle    string `json:"caBundle,omitempty"`    // of the API, when it uses TLS and the file has the root
	XDSCABundle string `json:"xdsCaBundle,omitempty"` // of the management service
	Credentials string `json:"credentials"`           // AWS shared-credentials file
	// APICertificate is the chain that the API serves with TLS. Clients in Go can
	// trust its first certificate without a root.
	APICertificate string `json:"apiCertificate,omitempty"`
	// Quotas is the --quotas that it runs with, none or aws; empty when it is older than
	// this.
	Quotas string `json:"quotas,omitempty"`
}

// ErrNoControlPlane says that a directory holds neither facts nor credentials:
// no evermeshd has run on it.
var ErrNoControlPlane = errors.New("no control plane has run there")

// ReadFacts reads the facts of the control plane whose data directory is dir.
// What the file does not say has evermeshd's own defaults.
func ReadFacts(dir string) (Facts, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Facts{}, fmt.Errorf("find data directory: %w", err)
	}
	f := Facts{
		APIEndpoint: "http://127.0.0.1:7070", XDSEndpoint: "http://127.0.0.1:7071",
		Region: "us-east-1", Partition: "aws", Account: "000000000000", Credentials: "credentials",
	}
	text, err := os.ReadFile(filepath.Join(dir, FactsFile))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Join(dir, f.Credentials)); errors.Is(err, fs.ErrNotExist) {
			return Facts{}, fmt.Errorf("%s: %w", dir, ErrNoControlPlane)
		}
	case err != nil:
		return Facts{}, fmt.Errorf("read control plane's facts: %w", err)
	default:
		if err := json.Unmarshal(text, &f); err != nil {
			return Facts{}, fmt.Errorf("read %s: %w", filepath.Join(dir, FactsFile), err)
		}
	}
	for _, name := range []*string{&f.Credentials, &f.CABundle, &f.XDSCABundle, &f.APICertificate} {
		if *name != "" && !filepath.IsAbs(*name) {
			*name = filepath.Join(dir, *name)
		}
	}
	return f, nil
}

// DefaultDataDir is the directory that evermeshd uses unless it is told
// another: EVERMESH_DATA_DIR, else evermesh under XDG_STATE_HOME, else under
// ~/.local/state.
func DefaultDataDir() string {
	if dir := os.Getenv("EVERMESH_DATA_DIR"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "evermesh")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "evermesh-data"
	}
	return filepath.Join(home, ".local", "state", "evermesh")
}

package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/evermesh/evermesh/internal/intercept"
)

// versions of the specification that the plugin speaks (route manager's plugin: the same four).
var versions = []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"}

// newest is what a result says where the configuration names no version that is spoken here.
const newest = "1.0.0"

// maxInput bounds a configuration, with the result of the plugins before.
const maxInput = 4 << 20

// defaultLog is where App Mesh's plugin logs.
const defaultLog = "/log/aws-appmesh.log"

// Error is what a command answers instead of a result, in CNI's form.
type Error struct {
	CNIVersion string `json:"cniVersion"`
	Code       int    `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details,omitempty"`
}

func (e *Error) Error() string { return strings.TrimSuffix(e.Msg+": "+e.Details, ": ") }

// Codes of errors: the specification's, and from 100 on those of this plugin.
const (
	CodeVersion     = 1   // the configuration's cniVersion is not spoken
	CodeEnvironment = 4   // a CNI_ variable is missing or wrong
	CodeIO          = 5   // stdin or the log file
	CodeDecode      = 6   // no JSON, or fields of wrong types
	CodeConfig      = 7   // a field's value is wrong
	CodeNamespace   = 8   // CNI_NETNS is not there, or is the node's
	CodeRules       = 100 // the rules could not be installed or removed; those before are in force
	CodeDiffers     = 101 // CHECK found other rules than the configuration's
)

var (
	containerID = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`)
	ifName      = regexp.MustCompile(`^[^/:\s]{1,15}$`)
)

// Run is one call of the plugin. getenv is os.Getenv in the program; what is not for the caller goes to stderr or the
// configuration's log file. It returns the exit code: 0, or 1 with an [Error] on stdout.
func Run(ctx context.Context, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	c := &call{getenv: getenv, version: newest, log: slog.New(slog.NewTextHandler(stderr, nil))}
	result, err := c.run(ctx, stdin)
	if err != nil {
		answer, ok := errors.AsType[*Error](err)
		if !ok {
			answer = &Error{Code: CodeRules, Msg: "interception failed", Details: err.Error()}
		}
		answer.CNIVersion = c.version
		c.log.Error("command failed", "command", getenv("CNI_COMMAND"), "container", getenv("CNI_CONTAINERID"), "code", answer.Code, "err", answer.Error())
		result = answer
	}
	if result != nil {
		text, encodeErr := json.Marshal(result)
		if encodeErr == nil {
			_, encodeErr = fmt.Fprintf(stdout, "%s\n", text)
		}
		err = errors.Join(err, encodeErr)
	}
	if c.close != nil {
		err = errors.Join(err, c.close())
	}
	if err != nil {
		return 1
	}
	return 0
}

// call is one command with its configuration.
type call struct {
	getenv  func(string) string
	version string // of answers
	network Network
	log     *slog.Logger
	close   func() error
}

// run returns what is to be printed; nil is nothing.
func (c *call) run(ctx context.Context, stdin io.Reader) (any, error) {
	command := c.getenv("CNI_COMMAND")
	switch command {
	case "VERSION":
		return struct {
			CNIVersion string   `json:"cniVersion"`
			Supported  []string `json:"supportedVersions"`
		}{newest, versions}, nil
	case "ADD", "DEL", "CHECK":
	default:
		return nil, &Error{Code: CodeEnvironment, Msg: "unknown CNI_COMMAND", Details: fmt.Sprintf("%q: want ADD, DEL, CHECK or VERSION", command)}
	}
	if err := c.environment(command); err != nil {
		return nil, err
	}
	if err := c.read(stdin); err != nil {
		return nil, err
	}
	backend := c.network.Backend
	if backend == "" {
		backend = "auto"
	}
	cfg, err := c.network.config()
	if err != nil && command != "DEL" {
		return nil, &Error{Code: CodeConfig, Msg: "invalid network configuration", Details: err.Error()}
	}
	backends, err := intercept.Find(backend)
	if command == "DEL" {
		return nil, c.del(ctx, backends, err)
	}
	if err != nil {
		return nil, err
	}
	if command == "CHECK" {
		return nil, c.check(ctx, backends, cfg)
	}
	return c.add(ctx, backends, cfg)
}

// environment refuses a call that lacks what its command needs, as CNI's own library does.
func (c *call) environment(command string) error {
	needed := []string{"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"}
	if command == "DEL" {
		needed = slices.Delete(needed, 1, 2)
	}
	var missing []string
	for _, name := range needed {
		if c.getenv(name) == "" {
			missing = append(missing, name)
		}
	}
	switch id, name := c.getenv("CNI_CONTAINERID"), c.getenv("CNI_IFNAME"); {
	case len(missing) > 0:
		return &Error{Code: CodeEnvironment, Msg: "required env variables are missing", Details: strings.Join(missing, ",")}
	case !containerID.MatchString(id):
		return &Error{Code: CodeEnvironment, Msg: "invalid CNI_CONTAINERID", Details: fmt.Sprintf("%q", id)}
	case !ifName.MatchString(name) || name == "." || name == "..":
		return &Error{Code: CodeEnvironment, Msg: "invalid CNI_IFNAME", Details: fmt.Sprintf("%q", name)}
	}
	return nil
}

// read takes the configuration from stdin, and logs from there on where it says.
func (c *call) read(stdin io.Reader) error {
	text, err := io.ReadAll(io.LimitReader(stdin, maxInput))
	if err != nil {
		return &Error{Code: CodeIO, Msg: "cannot read the configuration", Details: err.Error()}
	}
	if err := json.Unmarshal(text, &c.network); err != nil {
		return &Error{Code: CodeDecode, Msg: "cannot decode the configuration", Details: err.Error()}
	}
	given := c.network.CNIVersion
	if given == "" {
		given = "0.1.0" // as the specification has it
	}
	if !slices.Contains(versions, given) {
		return &Error{Code: CodeVersion, Msg: "incompatible CNI versions", Details: fmt.Sprintf("config is %q, plugin supports %q", given, versions)}
	}
	c.version = given
	if !containerID.MatchString(c.network.Name) {
		return &Error{Code: CodeConfig, Msg: "invalid network configuration", Details: fmt.Sprintf("name %q", c.network.Name)}
	}
	path := c.network.LogFile
	if path == "" {
		if _, err := os.Stat("/log"); err != nil {
			return nil
		}
		path = defaultLog
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil && c.network.LogFile != "" {
		return &Error{Code: CodeIO, Msg: "cannot open the log file", Details: err.Error()}
	}
	if err == nil {
		c.log, c.close = slog.New(slog.NewTextHandler(f, nil)), f.Close
	}
	return nil
}

// add installs the rules and passes on what the plugins before made.
func (c *call) add(ctx context.Context, backends []intercept.Backend, cfg intercept.Config) (any, error) {
	result, err := c.result()
	if err != nil {
		return nil, err
	}
	var done intercept.Installed
	if err := c.inside(func() (err error) {
		done, err = intercept.Install(ctx, backends, cfg)
		return err
	}); err != nil {
		return nil, err
	}
	c.log.Info("interception installed", "container", c.getenv("CNI_CONTAINERID"), "netns", c.getenv("CNI_NETNS"), "rules", cfg.Summary(done.Backend.Name()))
	return result, nil
}

// del removes the rules. What cannot have been installed, and what others hold, is no reason to keep a container from
// going: its namespace takes all rules along.
func (c *call) del(ctx context.Context, backends []intercept.Backend, noTool error) error {
	if noTool != nil {
		c.log.Warn("nothing to remove rules with", "err", noTool)
		return nil
	}
	err := within(c.getenv("CNI_NETNS"), func() error {
		_, err := intercept.Uninstall(ctx, backends)
		return err
	})
	_, foreign := errors.AsType[*intercept.ForeignError](err)
	switch {
	case errors.Is(err, errGone) || foreign:
		c.log.Warn("rules are left to the end of the namespace", "container", c.getenv("CNI_CONTAINERID"), "err", err)
		return nil
	case errors.Is(err, errOwn):
		return &Error{Code: CodeNamespace, Msg: "invalid network namespace", Details: err.Error()}
	case err != nil:
		return err
	}
	c.log.Info("interception removed", "container", c.getenv("CNI_CONTAINERID"), "netns", c.getenv("CNI_NETNS"))
	return nil
}

// check compares the rules with the configuration. CNI has it since 0.4.0.
func (c *call) check(ctx context.Context, backends []intercept.Backend, cfg intercept.Config) error {
	if strings.HasPrefix(c.version, "0.3.") {
		return &Error{Code: CodeVersion, Msg: "config version does not allow CHECK", Details: c.version}
	}
	return c.inside(func() error {
		if _, err := intercept.Verify(ctx, backends, cfg); err != nil {
			return &Error{Code: CodeDiffers, Msg: "the rules are not those of the configuration", Details: err.Error()}
		}
		return nil
	})
}

// inside is within for commands that need the namespace.
func (c *call) inside(fn func() error) error {
	err := within(c.getenv("CNI_NETNS"), fn)
	if errors.Is(err, errGone) || errors.Is(err, errOwn) {
		return &Error{Code: CodeNamespace, Msg: "invalid network namespace", Details: fmt.Sprintf("%s: %v", c.getenv("CNI_NETNS"), err)}
	}
	return err
}

// result is what ADD prints: what the plugin before printed, in the version of the configuration, or an empty result.
func (c *call) result() (any, error) {
	if len(c.network.PrevResult) == 0 || string(c.network.PrevResult) == "null" {
		return map[string]any{"cniVersion": c.version, "dns": map[string]any{}}, nil
	}
	var before map[string]json.RawMessage
	if err := json.Unmarshal(c.network.PrevResult, &before); err != nil {
		return nil, &Error{Code: CodeDecode, Msg: "cannot decode prevResult", Details: err.Error()}
	}
	before["cniVersion"], _ = json.Marshal(c.version) // a string always encodes
	return before, nil
}

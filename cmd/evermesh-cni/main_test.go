package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// part is the variable that makes this test program the plugin itself.
const part = "CNI_TEST_PART"

func TestMain(m *testing.M) {
	if os.Getenv(part) != "" {
		main()
	}
	os.Exit(m.Run())
}

// The program as a runtime calls it: a command in the environment, JSON on both sides, an exit code. What the commands do is
// shown in internal/cni.
func TestProgram(t *testing.T) {
	for _, test := range []struct {
		name           string
		args, env      []string
		stdin          string
		code           int
		stdout, stderr string // parts
	}{
		{"version", nil, []string{"CNI_COMMAND=VERSION"}, `{"cniVersion":"1.0.0"}`, 0, `"supportedVersions":["0.3.0",`, ""},
		{
			"an error", nil,
			[]string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=c", "CNI_NETNS=/nowhere", "CNI_IFNAME=eth0"},
			`{"cniVersion":"0.4.0","name":"n"}`, 1,
			`{"cniVersion":"0.4.0","code":7,`, "invalid network configuration",
		},
		{
			"a short PATH, and nothing to do", nil,
			[]string{"CNI_COMMAND=DEL", "CNI_CONTAINERID=c", "CNI_NETNS=/nowhere", "CNI_IFNAME=eth0", "PATH=/nowhere"},
			`{"cniVersion":"0.4.0","name":"n"}`, 0, "", "",
		},
		{"a person calls it", nil, nil, "", 1, "", "Install it under the name aws-appmesh"},
		{"a person asks", []string{"--help"}, nil, "", 0, "Install it under the name aws-appmesh", ""},
		{"its own version", []string{"version"}, nil, "", 0, "evermesh-cni devel\n", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "/proc/self/exe", test.args...)
			cmd.Env = append([]string{part + "=plugin"}, test.env...)
			cmd.Stdin = strings.NewReader(test.stdin)
			var stdout, stderr strings.Builder
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err := cmd.Run()
			code := 0
			if exit, ok := errors.AsType[*exec.ExitError](err); ok {
				code = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			if code != test.code || !strings.Contains(stdout.String(), test.stdout) || test.stdout == "" && stdout.String() != "" || !strings.Contains(stderr.String(), test.stderr) {
				t.Errorf("exit %d\n%s%s", code, stdout.String(), stderr.String())
			}
		})
	}
}

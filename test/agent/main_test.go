//go:build linux

package agent

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/evermesh/evermesh/internal/testenv"
)

func TestMain(m *testing.M) {
	enterRoom()
	if err := manyAtOnce(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	testenv.VerifyTestMain(m)
}

// manyAtOnce lets more tests run at once than there are processors, unless the command line says how many: most of the
// time they wait for what they broke.
func manyAtOnce() error {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", "6")
}

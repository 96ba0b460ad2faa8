//go:build linux

package ground

import "fmt"

// Missing says which step of making a ground failed and what the machine would have to offer. It crosses from the
// entered program to the one that called [Enter], so its cause is text.
type Missing struct {
	Step  string `json:"step"`  // what was tried: "make a bridge"
	Need  string `json:"need"`  // what it takes: "the kernel must have the module bridge"
	Cause string `json:"cause"` // what the machine said: "operation not supported"
}

func (m *Missing) Error() string { return fmt.Sprintf("%s: %s (%s)", m.Step, m.Cause, m.Need) }

// step turns err into a Missing; nil stays nil.
func step(name, need string, err error) error {
	if err == nil {
		return nil
	}
	return &Missing{Step: name, Need: need, Cause: err.Error()}
}

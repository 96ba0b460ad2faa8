package testenv

import (
	"testing"

	"go.uber.org/goleak"
)

func TestLeaksAreFoundAndWhatEndsIsNone(t *testing.T) {
	others := goleak.IgnoreCurrent()
	end := make(chan struct{})
	go func() { <-end }()
	if err := leaks(0, others); err == nil {
		t.Error("a goroutine that does not end is none")
	}
	go close(end)
	if err := leaks(Patience, others); err != nil {
		t.Error(err)
	}
}

package relay

import (
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/evermesh/evermesh/internal/agent/agenttest"
	"github.com/evermesh/evermesh/internal/testenv"
)

// silent is what a control plane of a release before does with an Envoy that has all: nothing, until end.
func silent(end <-chan error, last *discoveryv3.DeltaDiscoveryResponse) stream {
	return func(s deltaServer) error {
		select {
		case err := <-end:
			if last == nil || err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
		if err := s.Send(last); err != nil {
			return err
		}
		return <-end
	}
}

// An Envoy that comes back with all that it is to have is connected when its stream lasts, though the control plane says
// neither that it serves nor anything else, and what it runs on is the control plane's.
func TestSilentStreamIsConnected(t *testing.T) {
	t.Parallel()
	for name, last := range map[string]*discoveryv3.DeltaDiscoveryResponse{
		"until its end": nil, "and goes on to be when it says something": {TypeUrl: cdsType, Nonce: "n2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newEndpoint(t)
			relay, client := kept(t, c)
			relay.lasting = 100 * time.Millisecond
			c.do(func(deltaServer) error { return status.Error(codes.Unavailable, "cut off") })
			if _, _, err := start(agenttest.Within(t), client); status.Code(err) != codes.Unavailable {
				t.Fatal(err)
			}
			if serving, _ := relay.LastGood(); !serving {
				t.Fatal("the last good configuration is not served")
			}
			relay.upstreams.served(c.Addr) // it is not left alone any more
			end := make(chan error)
			c.do(silent(end, last))
			rounds := 2
			if last != nil {
				rounds = 1 // this Envoy leaves without a word on what it was told last
			}
			for range rounds {
				ended := make(chan error, 1)
				go func() {
					_, err := returning(agenttest.Within(t), client)
					ended <- err
				}()
				testenv.Eventually(t, "connected", func() bool { on, _ := relay.Connected(); return on })
				_, since := relay.Connected()
				if serving, _ := relay.LastGood(); serving {
					t.Error("the relay says that the last good configuration is served")
				}
				if last != nil {
					end <- nil
					if err := <-ended; err != nil {
						t.Errorf("it was told %v", err)
					}
					if on, now := relay.Connected(); !on || now != since {
						t.Errorf("connected: %t, since another time: %t", on, now != since)
					}
				}
				end <- status.Error(codes.Unavailable, "it ends")
				testenv.Eventually(t, "not connected", func() bool { on, _ := relay.Connected(); return !on })
				if last == nil {
					<-ended
				}
				relay.upstreams.served(c.Addr)
			}
		})
	}
}

// One that lacks something would be answered: it is not connected, and is given the last good configuration.
func TestSilentStreamOfANeedyEnvoy(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	relay, client := kept(t, c)
	relay.lasting = time.Millisecond // long before the last good configuration is given
	c.do(silent(nil, nil))
	if given, _, err := start(agenttest.Within(t), client); status.Code(err) != codes.Unavailable || len(given) != 2 {
		t.Fatalf("given %v, %v", given, err)
	}
	if on, _ := relay.Connected(); on {
		t.Error("connected to a control plane that says nothing to an Envoy without a configuration")
	}
}

// A control plane that has said before that it serves, and now says nothing, hangs: it is not connected.
func TestSilenceOfAnEndpointThatSpeaks(t *testing.T) {
	t.Parallel()
	c := newEndpoint(t)
	relay, client := kept(t, c)
	log, lines := agenttest.Log(t)
	relay.log, relay.lasting = log, 100*time.Millisecond
	end := make(chan error)
	ended := make(chan error, 1)
	comes := func() {
		_, err := returning(agenttest.Within(t), client)
		ended <- err
	}
	on := func() bool { on, _ := relay.Connected(); return on }
	said := func() bool { return strings.Contains(lines.String(), "does not say that it serves") }

	c.do(quiet(end))
	go comes()
	testenv.Eventually(t, "connected", on)
	end <- nil
	<-ended
	testenv.Eventually(t, "not connected", func() bool { return !on() })
	if said() {
		t.Error("it is said to be silent when it was not")
	}

	c.do(silent(end, nil))
	go comes()
	testenv.Eventually(t, "its silence is noticed", func() bool { return said() || on() })
	if on() {
		t.Error("connected to a control plane that hangs")
	}
	end <- status.Error(codes.Unavailable, "it ends")
	<-ended
}

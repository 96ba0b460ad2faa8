package main

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestReadyz(t *testing.T) {
	t.Parallel()
	fails := func(text string) func(context.Context) error {
		return func(context.Context) error { return errors.New(text) }
	}
	well := func(context.Context) error { return nil }
	for name, c := range map[string]struct {
		ready  *readiness
		status int
		body   string
	}{
		"starting":                {&readiness{reason: "starting"}, 503, `{"ready":false,"reason":"starting"}`},
		"the store is away":       {&readiness{check: fails("no answer"), limited: fails("no answer")}, 503, `{"ready":false,"reason":"no answer"}`},
		"the disk is full":        {&readiness{check: well, limited: fails("the store is full")}, 200, `{"ready":true,"reason":"the store is full"}`},
		"draining, although well": {&readiness{reason: "draining", check: well, limited: well}, 503, `{"ready":false,"reason":"draining"}`},
		"well":                    {&readiness{check: well, limited: well}, 200, `{"ready":true,"reason":""}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			answer := httptest.NewRecorder()
			adminHandler(c.ready, prometheus.NewRegistry()).ServeHTTP(answer, httptest.NewRequest("GET", "/readyz", nil))
			if answer.Code != c.status || answer.Body.String() != c.body+"\n" {
				t.Errorf("%d %s, want %d %s", answer.Code, answer.Body, c.status, c.body)
			}
		})
	}
}

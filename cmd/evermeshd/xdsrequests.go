package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/peer"

	"github.com/evermesh/evermesh/internal/ads"
	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	"github.com/evermesh/evermesh/internal/service"
)

const (
	// xdsConnections is how many connections the port of the streams may have that are no
	// streams.
	xdsConnections = 4096
	// xdsRequests is how many of their requests are at work: each may wait for 10 s. More
	// are told to ask another replica.
	xdsRequests = 1024
	// xdsHeaderTime is how long a header may take, from the connection: an agent sends it
	// at once. What follows it is not read, and the connection ends.
	xdsHeaderTime = 3 * time.Second
)

// otherEnd is where a request's connection comes from, in its context.
type otherEnd struct{}

// xdsServer serves what agents ask on the port of their streams: by the proof of a
// stream they may drain a proxy of a node whose configuration they may have.
func (d *daemon) xdsServer() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("PUT /evermesh/v1/proxies/{instance}/drain", d.drainOf("DrainProxy", d.drains.Drain))
	mux.Handle("DELETE /evermesh/v1/proxies/{instance}/drain", d.drainOf("ResumeProxy", d.drains.Resume))
	server := httpServer(mux, nil, d.log, xdsConnections)
	server.ReadHeaderTimeout = xdsHeaderTime
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		from := &peer.Peer{Addr: c.RemoteAddr()}
		if proven, ok := c.(*ads.Proven); ok {
			from.AuthInfo = proven.TLS
		}
		return context.WithValue(ctx, otherEnd{}, from)
	}
	return server
}

// drainOf answers one operation on a proxy.
func (d *daemon) drainOf(operation string, do func(context.Context, api.Proxy, api.Key) (api.Drain, error)) http.Handler {
	atWork := make(chan struct{}, xdsRequests)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		if r.ContentLength != 0 {
			// It is not waited for, neither now nor when the connection ends.
			w.Header().Set("Connection", "close")
			_ = http.NewResponseController(w).SetReadDeadline(began)
		}
		record := service.Record{ID: uuid.NewString(), Source: "evermesh.amazonaws.com", Operation: operation, At: began, UserAgent: r.UserAgent()}
		out, err := d.drainBy(r, &record, atWork, do)
		if err == nil {
			record.Response = out
		}
		if _, known := errors.AsType[*api.Error](err); err != nil && !known && r.Context().Err() == nil {
			d.log.Error("request failed", "request_id", record.ID, "err", err)
		}
		if kept := d.keepRecord(r.Context(), record, err); kept != nil {
			err = kept
		}
		code := answerDrain(w, out, err)
		d.metrics.request(operation, code, time.Since(began))
	})
}

// drainBy authenticates, finds and authorises, and then does it; the record learns who
// asked for what. What waits takes one of atWork, which who is not known cannot.
func (d *daemon) drainBy(r *http.Request, record *service.Record, atWork chan struct{}, do func(context.Context, api.Proxy, api.Key) (api.Drain, error)) (out api.Drain, err error) {
	if r.ContentLength != 0 {
		return out, api.Errorf(api.CodeBadRequest, "The request must have no body.")
	}
	from, _ := r.Context().Value(otherEnd{}).(*peer.Peer)
	principal := iam.Root(d.config.Partition, d.config.Account)
	if d.config.Auth != "off" {
		err := d.memory.Decide(r.Context(), func() (err error) {
			principal, err = d.streams.AuthenticateRequest(r, nil, from)
			return err
		})
		if err != nil {
			return out, err
		}
	}
	instance, arn := r.PathValue("instance"), r.URL.Query().Get("resourceArn")
	origin := ads.From{TLS: from.AuthInfo != nil}
	if from.Addr != nil {
		origin.Address = from.Addr.String()
		record.SourceIP, _, _ = net.SplitHostPort(origin.Address)
	}
	asked := map[string]any{"instance": instance}
	if arn != "" {
		asked["resourceArn"] = arn
	}
	record.Principal, record.Request = principal, asked
	if err := d.api.Throttle(r, principal); err != nil {
		return out, err
	}
	select {
	case atWork <- struct{}{}:
		defer func() { <-atWork }()
	default:
		return out, api.Errorf(api.CodeServiceUnavailable, "%d other requests are at work here: ask another replica.", xdsRequests)
	}
	may := func(key api.Key) error { return d.mayStream(principal, origin, key) }
	var proxy api.Proxy
	var key api.Key
	err = d.memory.Decide(r.Context(), func() (err error) {
		proxy, key, err = d.drains.Find(r.Context(), principal.Account, instance, arn, may)
		return err
	})
	if proxy.ResourceARN != "" {
		record.Resources = []string{proxy.ResourceARN}
	}
	if err != nil {
		return out, err
	}
	return do(r.Context(), proxy, key)
}

// keepRecord has the record kept of a request of somebody who is known (D2).
func (d *daemon) keepRecord(ctx context.Context, r service.Record, err error) error {
	if d.around.audit == nil || r.Principal == (auth.Principal{}) {
		return nil
	}
	if err != nil {
		known := refusalOf(err)
		r.Code, r.Message = known.Code, known.Message
	}
	if kept := d.around.audit.Append(context.WithoutCancel(ctx), r); kept != nil {
		d.log.Error("call was not recorded, so it fails", "request_id", r.ID, "err", kept)
		return api.Errorf(api.CodeServiceUnavailable, "The call could not be recorded for the audit trail, so it is not answered: try again.")
	}
	return nil
}

// refusalOf is an error as it is answered.
func refusalOf(err error) *api.Error {
	if known, ok := errors.AsType[*api.Error](err); ok {
		return known
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return api.Errorf(api.CodeServiceUnavailable, "The request was given up before it was answered.")
	}
	return api.Errorf(api.CodeInternalServerError, "Evermesh could not answer because of a fault of its own.")
}

// answerDrain writes the answer and returns its code for metrics, OK for none.
func answerDrain(w http.ResponseWriter, out api.Drain, err error) (code string) {
	status, answer := http.StatusOK, any(out)
	code = "OK"
	if err != nil {
		known := refusalOf(err)
		code, status, answer = known.Code, known.Status(), map[string]string{"message": known.Message}
		w.Header().Set("X-Amzn-Errortype", known.Code)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if text, err := json.Marshal(answer); err == nil {
		_, _ = w.Write(text) // who has gone gets none
	}
	return code
}

package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

const (
	// firstTry is how soon a start says that it waits for etcd.
	firstTry = time.Second
	// mostBackoff is the longest pause between two attempts to connect to a member.
	mostBackoff = 2 * time.Second
	// leastMinor is the oldest etcd that is supported, 3.5.
	leastMajor, leastMinor = 3, 5
)

// Misconfigured says that a setting of the external etcd cannot be right,
// however long one waits.
type Misconfigured struct{ Setting, Reason string }

func (e *Misconfigured) Error() string { return e.Setting + ": " + e.Reason }

// config is how a client talks to an etcd that is not in-process.
func (s *Store) config() clientv3.Config {
	return clientv3.Config{
		DialTimeout: s.options.Timeout, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 5 * time.Second,
		MaxCallSendMsgSize: maxRequest, Logger: zapLogger(s.options.Log, nil),
		// gRPC would try less and less often, in the end every two minutes, an etcd
		// that was away for long.
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: mostBackoff},
			MinConnectTimeout: s.options.Timeout,
		})},
	}
}

func (s *Store) dial(endpoint string, options ...grpc.DialOption) error {
	c := s.config()
	c.Endpoints, c.DialOptions = []string{endpoint}, append(c.DialOptions, options...)
	client, err := clientv3.New(c)
	if err != nil {
		return fmt.Errorf("open store: %w", err)
	}
	s.client = client
	return nil
}

func (s *Store) dialEndpoints() error {
	o, c := s.options, s.config()
	c.Endpoints = o.Endpoints
	for _, endpoint := range o.Endpoints {
		if err := wellFormed(endpoint); err != nil {
			return &Misconfigured{"--etcd-endpoints " + endpoint, err.Error()}
		}
	}
	for _, file := range [][2]string{{"--etcd-cacert", o.CACert}, {"--etcd-cert", o.Cert}, {"--etcd-key", o.Key}} {
		if file[1] == "" {
			continue
		}
		if _, err := os.ReadFile(file[1]); err != nil {
			return &Misconfigured{file[0], err.Error()}
		}
	}
	if o.CACert != "" || o.Cert != "" {
		files := transport.TLSInfo{TrustedCAFile: o.CACert, CertFile: o.Cert, KeyFile: o.Key, Logger: c.Logger}
		config, err := files.ClientConfig()
		if err != nil {
			return &Misconfigured{"--etcd-cacert, --etcd-cert or --etcd-key", err.Error()}
		}
		c.TLS, s.tls = config, config
	}
	client, err := clientv3.New(c)
	if err != nil {
		return &Misconfigured{"--etcd-endpoints " + strings.Join(o.Endpoints, ","), err.Error()}
	}
	s.client = client
	return nil
}

// wellFormed refuses what is no address: gRPC would try it again and again.
func wellFormed(endpoint string) error {
	host := endpoint
	if strings.Contains(endpoint, "://") {
		u, err := url.Parse(endpoint)
		switch {
		case err != nil:
			return errors.New("not a URL, such as https://etcd:2379")
		case u.Scheme == "unix" || u.Scheme == "unixs":
			return nil
		case u.Scheme != "http" && u.Scheme != "https":
			return errors.New("want http, https or unix before ://")
		}
		host = u.Host
	}
	if _, port, err := net.SplitHostPort(host); err != nil || port == "" {
		return errors.New("want a host and a port, such as https://etcd:2379")
	}
	return nil
}

// reach reads from the store once. An external etcd that does not answer is
// waited for, as long as the options say, and never in silence.
func (s *Store) reach(ctx context.Context) error {
	if len(s.options.Endpoints) == 0 {
		_, err := s.Head(ctx)
		return err
	}
	start, wait := time.Now(), firstTry
	for {
		err := s.try(ctx)
		_, wrong := errors.AsType[*Misconfigured](err)
		if err == nil || wrong || ctx.Err() != nil {
			return err
		}
		left := s.options.Patience - time.Since(start)
		if left <= 0 {
			return fmt.Errorf("etcd does not answer: %w", err)
		}
		wait = min(wait, left)
		s.options.Log.Warn("etcd does not answer and is waited for", "endpoints", strings.Join(s.options.Endpoints, ","),
			"again", wait.Round(time.Millisecond), "until", left.Round(time.Second), "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, 10*time.Second)
	}
}

// try asks each member for its version, which also says best why it cannot be
// reached, and reads once if one answers.
func (s *Store) try(ctx context.Context) error {
	var failed error
	answered := false
	for _, endpoint := range s.options.Endpoints {
		asking, cancel := context.WithTimeout(ctx, min(firstTry, s.options.Timeout))
		member, err := s.client.Status(asking, endpoint)
		cancel()
		if err != nil {
			failed = err
			continue
		}
		answered = true
		if !supported(member.Version) {
			return &Misconfigured{"--etcd-endpoints " + endpoint, fmt.Sprintf("this is etcd %s: evermeshd needs %d.%d or newer", member.Version, leastMajor, leastMinor)}
		}
	}
	if !answered {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return unavailable("%v", s.why(ctx, failed))
	}
	_, err := s.Head(ctx)
	return err
}

// why is a better reason than that a deadline passed, which is all that etcd's
// client tells: what a connection to the last of the members says.
func (s *Store) why(ctx context.Context, failed error) error {
	endpoint := s.options.Endpoints[len(s.options.Endpoints)-1]
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" {
		u = &url.URL{Host: endpoint}
	}
	if !errors.Is(failed, context.DeadlineExceeded) || u.Scheme == "unix" || u.Scheme == "unixs" {
		return failed
	}
	ctx, cancel := context.WithTimeout(ctx, firstTry)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return err
	}
	defer conn.Close()
	if u.Scheme == "https" {
		c := &tls.Config{}
		if s.tls != nil {
			c = s.tls.Clone()
		}
		c.ServerName = u.Hostname()
		if err := tls.Client(conn, c).HandshakeContext(ctx); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s accepts connections, and nothing there answers as etcd does; is http or https right?", u.Host)
}

// supported says whether a version of etcd is new enough. What has no number is
// somebody's own build.
func supported(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	x, err := strconv.Atoi(major)
	y, err2 := strconv.Atoi(minor)
	if err != nil || err2 != nil {
		return true
	}
	return x > leastMajor || x == leastMajor && y >= leastMinor
}

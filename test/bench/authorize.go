//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api/iamapi"
	"github.com/evermesh/evermesh/internal/auth"
	"github.com/evermesh/evermesh/internal/iam"
	around "github.com/evermesh/evermesh/internal/service"
	"github.com/evermesh/evermesh/internal/store"
	"github.com/evermesh/evermesh/test/stage"
)

// policiesEach is how many managed policies an account has, and its user: as many as a user may have.
const policiesEach = 10

// statements of a policy: five, of which one may fit what is asked.
func statements(n int) string {
	var text strings.Builder
	text.WriteString(`{"Version":"2012-10-17","Statement":[`)
	for i, service := range []string{"s3", "sqs", "ecs", "ec2"} {
		fmt.Fprintf(&text, `{"Sid":"S%d","Effect":"Allow","Action":["%s:Get*","%s:List*"],"Resource":"*","Condition":{"StringLike":{"aws:username":"u*"}}},`, i, service, service)
	}
	fmt.Fprintf(&text, `{"Sid":"Mesh","Effect":"Allow","Action":"appmesh:Describe*","Resource":"arn:aws:appmesh:*:*:mesh/m%d*","Condition":{"IpAddress":{"aws:SourceIp":"127.0.0.0/8"}}}]}`, n)
	return text.String()
}

// crowd are accounts in a control plane's identity service, each with policies and a user who has them all.
type crowd struct {
	keys     *iam.Keys
	service  *around.Service
	accounts []string
	users    []auth.Principal // one of each account
}

// run does an operation as the root of an account.
func (c *crowd) run(ctx context.Context, account, operation string, input map[string]any) (any, error) {
	out, err := c.service.Operations[operation].Run(ctx, &around.Call{
		Service: c.service, Operation: operation, Input: input, Authorizer: c.keys.Authorizer(), At: time.Now(),
		Principal: auth.Principal{Account: account, ARN: "arn:aws:iam::" + account + ":root", Type: auth.Root},
	})
	if err != nil {
		return nil, fmt.Errorf("%s in account %s: %w", operation, account, err)
	}
	return out, nil
}

// settle makes an account with its policies and its user.
func (c *crowd) settle(ctx context.Context, n int) error {
	account := c.accounts[n]
	if n > 0 { // the first is there
		if _, err := c.keys.AddAccount(ctx, account); err != nil {
			return err
		}
	}
	made, err := c.run(ctx, account, "CreateUser", map[string]any{"UserName": "user"})
	if err != nil {
		return err
	}
	user := made.(*iamapi.CreateUserResponse).User
	c.users[n] = auth.Principal{Account: account, ARN: user.ARN, ID: user.UserID, Type: auth.User, AccessKeyID: "AKIAIOSFODNN7EXAMPLE"}
	for i := range policiesEach {
		name := fmt.Sprintf("policy%d", i)
		if _, err := c.run(ctx, account, "CreatePolicy", map[string]any{"PolicyName": name, "PolicyDocument": statements(i)}); err != nil {
			return err
		}
		if _, err := c.run(ctx, account, "AttachUserPolicy", map[string]any{"UserName": "user", "PolicyArn": "arn:aws:iam::" + account + ":policy/" + name}); err != nil {
			return err
		}
	}
	return nil
}

// question is one that the last of a user's policies allows.
func (c *crowd) question(n int) auth.Question {
	p := c.users[n%len(c.users)]
	return auth.Question{
		Principal: p, Action: "appmesh:DescribeRoute",
		Resource: fmt.Sprintf("arn:aws:appmesh:us-east-1:%s:mesh/m%d/virtualRouter/r/route/x", p.Account, policiesEach-1),
		Keys:     map[string][]string{"aws:sourceip": {"127.0.0.1"}, "aws:securetransport": {"true"}},
	}
}

// measureAuthorization asks a control plane's Authorizer, with its accounts in etcd and made through IAM, one question
// after another, each about another account than the one before, as callers of all accounts would.
func measureAuthorization(ctx context.Context, r *rig) (_ []figure, err error) {
	accounts := r.scale.accounts
	r.say("making %d accounts with %d policies", accounts, accounts*policiesEach)
	data := r.Dir() + "/" + r.name("authorize-etcd")
	s, err := store.Open(ctx, store.Options{DataDir: data, Prefix: "evermesh", Timeout: time.Minute})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	c := &crowd{accounts: make([]string, accounts), users: make([]auth.Principal, accounts)}
	for n := range accounts {
		c.accounts[n] = fmt.Sprintf("%012d", n)
	}
	if c.keys, err = iam.Open(ctx, iam.Config{
		Store: s, Partition: "aws", Account: c.accounts[0], MasterKeyFile: filepath.Join(data, "master-key"), CreateMasterKey: true,
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}); err != nil {
		return nil, err
	}
	if c.service, err = iam.NewServer(c.keys).Service(); err != nil {
		return nil, err
	}
	if err := each(ctx, accounts, c.settle); err != nil {
		return nil, err
	}
	following, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- c.keys.Run(following) }()
	defer func() {
		stop()
		if e := <-ended; !errors.Is(e, context.Canceled) {
			err = errors.Join(err, e)
		}
	}()
	authorizer := c.keys.Authorizer()
	// Memory has all of it: what is asked for the first time has its policies parsed.
	first := map[int]time.Duration{}
	if err := stage.Until(ctx, "all accounts are known", func(ctx context.Context) bool {
		for n := len(first); n < accounts; n++ {
			q := c.question(n)
			started := time.Now()
			if authorizer.Authorize(ctx, q) != nil {
				return false
			}
			first[n] = time.Since(started)
		}
		return true
	}); err != nil {
		return nil, err
	}
	wall := make([]time.Duration, 0, r.scale.rows*accounts)
	n := 0
	cpu, err := medianCPU(r.scale.rows, accounts, func() {
		q := c.question(n)
		n++
		started := time.Now()
		if e := authorizer.Authorize(ctx, q); e != nil {
			err = errors.Join(err, e)
		}
		wall = append(wall, time.Since(started))
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(wall)
	cold := slices.Sorted(maps.Values(first))
	at := func(d []time.Duration, part int) time.Duration { return d[len(d)*part/100] }
	us := func(d time.Duration) string { return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1000) }
	const most = 200 * time.Microsecond
	name := fmt.Sprintf("authorisation of one call, %d policies in %d accounts", accounts*policiesEach, accounts)
	return []figure{
		figure{
			name: name + ": processor time", ours: us(cpu),
			note: fmt.Sprintf("an account's user with %d managed policies of five statements; the last one allows it. One replica's memory, filled by the watch; each call is of another account than the one before.", policiesEach),
		}.must("≤ 200 µs", cpu <= most),
		figure{name: "  median", ours: us(at(wall, 50))}.must("≤ 200 µs", at(wall, 50) <= most),
		figure{name: "  p99", ours: us(at(wall, 99))}.must("≤ 200 µs", at(wall, 99) <= most),
		{name: "  the first of an account, whose policies are parsed: median", ours: us(at(cold, 50))},
	}, nil
}

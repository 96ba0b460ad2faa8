package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/evermesh/evermesh/internal/audit/segment"
	"github.com/evermesh/evermesh/internal/store"
)

const (
	// PeerPath is where a replica answers the others, on the API's address.
	PeerPath = "/evermesh/replicas/events"
	// peersTail is where replicas say where they answer; the rows go with them.
	peersTail = "peers/"
	// peerSkew is how old a question may be, by the clocks of both.
	peerSkew = 5 * time.Minute
	// maxQuestion and maxAnswer bound what replicas send each other, in bytes.
	maxQuestion = 64 << 10
	maxAnswer   = 64 << 20
)

// Sealer seals texts that only replicas of this control plane open; *seal.Box is
// one. With it they know each other, and nobody between them reads or changes
// anything, whatever certificate the API's address has.
type Sealer interface {
	SealText(owner string, text []byte) (string, error)
	OpenText(owner, text string) ([]byte, error)
}

// Rows is where replicas find each other; *store.Store is one.
type Rows interface {
	Write(ctx context.Context, lease bool, ops []store.Op) error
	Read(ctx context.Context, prefix string) (map[string][]byte, error)
}

// Peers are the other replicas.
type Peers struct {
	Store Rows
	// Replica is this one's name, which goes with its disk: ReplicaName.
	Replica string
	// URL is where this replica's API can be reached by others: http://10.0.0.1:7070.
	URL    string
	Sealer Sealer
	// Client asks; it need not verify certificates, as all is sealed.
	Client *http.Client
	Logger *slog.Logger
	Now    func() time.Time
}

// peer is a replica's row.
type peer struct {
	URL string `json:"url"`
}

// question is what one replica asks another.
type question struct {
	Query query     `json:"query"`
	At    time.Time `json:"at"`
	// Nonce joins the answer to the question.
	Nonce string `json:"nonce"`
}

// Announce says where this replica answers, until it ends, and for longer that it
// has events.
func (p *Peers) Announce(ctx context.Context) error {
	return p.Store.Write(ctx, true, []store.Op{
		{Key: peersTail + p.Replica, Value: marshal(peer{p.URL})},
		p.holds(p.Now().Add(holdEvery)),
	})
}

// Leave says that it answers no more; what it has it keeps.
func (p *Peers) Leave(ctx context.Context) error {
	return p.Store.Write(ctx, false, []store.Op{{Key: peersTail + p.Replica}, p.holds(p.Now())})
}

// Run announces this replica until ctx ends, and again from time to time; while the
// store is away it tries.
// Where others cannot reach it, it says so.
func (p *Peers) Run(ctx context.Context) error {
	if p.URL == "" {
		p.Logger.Warn("events of this replica are not found by others, as its API has no address for them: give --api-advertise")
		return nil
	}
	for ctx.Err() == nil {
		err := p.Announce(ctx)
		if err == nil {
			err = p.expire(ctx)
		}
		if err == nil {
			pause(ctx, holdEvery/2)
			continue
		}
		if ctx.Err() == nil {
			p.Logger.Warn("replica is not announced to the others", "err", err)
		}
		pause(ctx, again)
	}
	return nil
}

// ask asks all others at once; silent are those that did not answer, and those that
// are gone with events that may be meant.
func (p *Peers) ask(ctx context.Context, q query) (found []segment.Found, silent []string) {
	ctx, cancel := context.WithTimeout(ctx, peerWait)
	defer cancel()
	rows, err := p.Store.Read(ctx, peersTail)
	if err != nil {
		return nil, []string{"all"}
	}
	gone, err := p.gone(ctx, rows, q)
	if err != nil {
		return nil, []string{"all"}
	}
	silent = gone
	var mu sync.Mutex
	var asked sync.WaitGroup
	for _, key := range slices.Sorted(maps.Keys(rows)) {
		name := strings.TrimPrefix(key, peersTail)
		if name == p.Replica {
			continue
		}
		asked.Go(func() {
			answer, err := p.one(ctx, name, rows[key], q)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.Logger.Warn("replica did not answer for its events", "replica", name, "err", err)
				silent = append(silent, name)
				return
			}
			found = append(found, answer)
		})
	}
	asked.Wait()
	slices.Sort(silent)
	return found, silent
}

// one asks one replica.
func (p *Peers) one(ctx context.Context, name string, row []byte, q query) (segment.Found, error) {
	var to peer
	if err := json.Unmarshal(row, &to); err != nil {
		return segment.Found{}, fmt.Errorf("read row: %w", err)
	}
	asked := question{q, p.Now(), name + " " + nonce()}
	sealed, err := p.Sealer.SealText(sealQuestion+name, marshal(asked))
	if err != nil {
		return segment.Found{}, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL+PeerPath, strings.NewReader(sealed))
	if err != nil {
		return segment.Found{}, err
	}
	resp, err := p.Client.Do(r)
	if err != nil {
		return segment.Found{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return segment.Found{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return segment.Found{}, fmt.Errorf("status %d", resp.StatusCode)
	}
	text, err := p.Sealer.OpenText(sealAnswer+asked.Nonce, string(body))
	if err != nil {
		return segment.Found{}, err
	}
	return unpackAnswer(text)
}

// What is sealed says what it is, to whom, and for which question.
const (
	sealQuestion = "audit question "
	sealAnswer   = "audit answer "
)

// answer is the time until which was looked, and lines.
func packAnswer(found segment.Found) []byte {
	b := fmt.Appendf(nil, "%d\n", found.Until)
	for _, e := range found.Entries {
		b = append(b, e.Line()...)
	}
	return b
}

func unpackAnswer(text []byte) (found segment.Found, err error) {
	head, lines, ok := bytes.Cut(text, []byte("\n"))
	if !ok {
		return found, errors.New("answer has no head")
	}
	if _, err := fmt.Sscan(string(head), &found.Until); err != nil {
		return found, fmt.Errorf("answer's head: %w", err)
	}
	found.Entries, err = segment.Lines(lines)
	return found, err
}

// Handler answers other replicas for this one's events, on PeerPath. Who cannot
// seal a question gets nothing.
func (l *Lookups) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := l.Peers
		refuse := func() { http.Error(w, "not found", http.StatusNotFound) }
		if p == nil || r.Method != http.MethodPost {
			refuse()
			return
		}
		body, err := io.ReadAll(io.LimitReader(r.Body, maxQuestion))
		if err != nil {
			refuse()
			return
		}
		text, err := p.Sealer.OpenText(sealQuestion+p.Replica, string(body))
		var asked question
		if err != nil || json.Unmarshal(text, &asked) != nil {
			refuse()
			return
		}
		if old := p.Now().Sub(asked.At).Abs(); old > peerSkew || asked.Query.Limit < 1 || asked.Query.Limit > mostResults+1 {
			p.Logger.Warn("question of a replica is not answered: clocks differ, or it is repeated", "age", old)
			refuse()
			return
		}
		found, err := l.own(r.Context(), asked.Query)
		var sealed string
		if err == nil {
			sealed, err = p.Sealer.SealText(sealAnswer+asked.Nonce, packAnswer(found))
		}
		if err != nil {
			p.Logger.Error("question of a replica was not answered", "err", err)
			http.Error(w, "failed", http.StatusInternalServerError)
			return
		}
		_, _ = io.WriteString(w, sealed) // who asked may be gone
	})
}

// nonce is a text that comes once.
func nonce() string { return rand.Text() }

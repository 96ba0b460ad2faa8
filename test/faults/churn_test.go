//go:build linux

package faults

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/service/appmesh"
)

// churner makes meshes and removes them, so that locks come and go.
type churner struct {
	rand  *rand.Rand
	count int
	acked map[string]bool
	there string // the mesh that exists; "" for none
	open  bool   // whether the outcome of the last call is not known
}

func (m *churner) name() string  { return fmt.Sprintf("churn-%d", m.count) }
func (m *churner) token() string { return "token-" + m.name() }

func (m *churner) create(ctx context.Context, c *appmesh.Client) (*appmesh.CreateMeshOutput, error) {
	name, token := m.name(), m.token()
	return c.CreateMesh(ctx, &appmesh.CreateMeshInput{MeshName: &name, ClientToken: &token})
}

func (m *churner) delete(ctx context.Context, c *appmesh.Client) error {
	_, err := c.DeleteMesh(ctx, &appmesh.DeleteMeshInput{MeshName: &m.there})
	return err
}

func (m *churner) writes(ctx context.Context, c *appmesh.Client, until <-chan struct{}, wrong func(string, ...any)) {
	for {
		select {
		case <-until:
			return
		default:
		}
		var err error
		if m.there == "" {
			m.count++
			_, err = m.create(ctx, c)
		} else {
			err = m.delete(ctx, c)
		}
		switch o, status, code := outcomeOf(err); o {
		case done:
			m.took()
		case unsent:
			if m.there == "" {
				m.count-- // as if it had not been tried
			}
			return
		default:
			if status != 0 && status != http.StatusServiceUnavailable {
				wrong("mesh %s: %d %s", m.name(), status, code)
			}
			m.open = true
			return
		}
	}
}

// took notes that the last call was acknowledged.
func (m *churner) took() {
	m.open = false
	if m.there == "" {
		m.there = m.name()
		m.acked[m.token()] = true
		return
	}
	m.there = ""
}

// settle repeats the open call; the mesh and its place in the list come and go together.
func (m *churner) settle(ctx context.Context, c *appmesh.Client, wrong func(string, ...any)) error {
	if m.count == 0 {
		return nil
	}
	name := m.name()
	_, err := c.DescribeMesh(ctx, &appmesh.DescribeMeshInput{MeshName: &name})
	o, status, _ := outcomeOf(err)
	if o == unknown || o == unsent {
		return err
	}
	listed, err := listMeshes(ctx, c)
	if err != nil {
		return err
	}
	_, there := listed[name]
	if there != (o == done) {
		wrong("mesh %s is listed: %t, described: %d", name, there, status)
	}
	if !m.open {
		if there != (m.there == name) {
			wrong("lost: mesh %s is there: %t, acknowledged was: %t", name, there, m.there == name)
		}
		return nil
	}
	if m.there == "" {
		_, err = m.create(ctx, c)
	} else if there {
		err = m.delete(ctx, c)
	} else {
		err = nil // it was deleted
	}
	if o, status, code := outcomeOf(err); o == unknown || o == unsent {
		return err
	} else if o == refused {
		wrong("mesh %s, again: %d %s", name, status, code)
	}
	m.took()
	return nil
}

package cloudmap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery/types"

	"github.com/evermesh/evermesh/internal/testenv"
)

// moto starts a copy of AWS that this project did not write, and returns its URL.
func moto(t *testing.T) string {
	t.Helper()
	program, err := filepath.Abs("../../../build/tools/bin/moto")
	if err == nil {
		_, err = os.Stat(program)
	}
	if err != nil {
		t.Fatalf("%v: run make tools", err)
	}
	address := testenv.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	cmd := exec.Command(program, "-p", port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // it was killed
	})
	for end := time.Now().Add(testenv.Patience); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			return "http://" + address
		}
		if time.Now().After(end) {
			t.Fatalf("moto does not listen: %v", err)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal("the test is over")
		}
	}
}

// registrar registers instances as deployments do, with AWS's own client.
type registrar struct {
	t      *testing.T
	client *servicediscovery.Client
}

func (r *registrar) check(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// namespace finds the namespace of that name.
func (r *registrar) namespace(name string) string {
	r.t.Helper()
	all, err := r.client.ListNamespaces(r.t.Context(), &servicediscovery.ListNamespacesInput{})
	r.check(err)
	for _, n := range all.Namespaces {
		if aws.ToString(n.Name) == name {
			return aws.ToString(n.Id)
		}
	}
	r.t.Fatalf("there is no namespace %s", name)
	return ""
}

func (r *registrar) service(namespace, name string) string {
	r.t.Helper()
	made, err := r.client.CreateService(r.t.Context(), &servicediscovery.CreateServiceInput{
		Name: &name, NamespaceId: aws.String(r.namespace(namespace)),
		HealthCheckCustomConfig: &types.HealthCheckCustomConfig{},
	})
	r.check(err)
	return aws.ToString(made.Service.Id)
}

func (r *registrar) register(service, id string, attributes map[string]string) {
	r.t.Helper()
	_, err := r.client.RegisterInstance(r.t.Context(), &servicediscovery.RegisterInstanceInput{ServiceId: &service, InstanceId: &id, Attributes: attributes})
	r.check(err)
}

func (r *registrar) deregister(service, id string) {
	r.t.Helper()
	_, err := r.client.DeregisterInstance(r.t.Context(), &servicediscovery.DeregisterInstanceInput{ServiceId: &service, InstanceId: &id})
	r.check(err)
}

func (r *registrar) health(service, id string, status types.CustomHealthStatus) {
	r.t.Helper()
	_, err := r.client.UpdateInstanceCustomHealthStatus(r.t.Context(), &servicediscovery.UpdateInstanceCustomHealthStatusInput{
		ServiceId: &service, InstanceId: &id, Status: status,
	})
	r.check(err)
}

// TestAnIndependentCloudMap registers with AWS's client in a Cloud Map of others
// and watches through the source.
func TestAnIndependentCloudMap(t *testing.T) {
	t.Parallel()
	url := moto(t)
	r := &registrar{t, servicediscovery.New(servicediscovery.Options{
		Region: "us-east-1", BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider("key", "secret", ""),
	})}
	s, _ := source(t, url)
	ctx := t.Context()
	_, err := r.client.CreateHttpNamespace(ctx, &servicediscovery.CreateHttpNamespaceInput{Name: aws.String("web")})
	r.check(err)
	_, err = r.client.CreatePrivateDnsNamespace(ctx, &servicediscovery.CreatePrivateDnsNamespaceInput{Name: aws.String("apps.local"), Vpc: aws.String("vpc-1")})
	r.check(err)

	for n, namespace := range []string{"web", "apps.local"} {
		t.Run(fmt.Sprintf("DISC-008 instances of a namespace by its name, %s", namespace), func(t *testing.T) {
			r := &registrar{t, r.client}
			q := query(fmt.Sprint("orders", n))
			q.Namespace = namespace
			id := r.service(namespace, q.Service)
			w := watch(t, s, q)
			w.until()
			r.register(id, "one", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.1", "AWS_INSTANCE_PORT": "9080", "AWS_INIT_HEALTH_STATUS": "HEALTHY"})
			w.until(at("10.0.0.1", 9080))
			r.register(id, "two", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.2"})
			w.until(at("10.0.0.1", 9080), at("10.0.0.2", 8080))
			r.deregister(id, "one")
			w.until(at("10.0.0.2", 8080))
		})
	}
	t.Run("DISC-005 attributes select", func(t *testing.T) {
		r := &registrar{t, r.client}
		id := r.service("web", "colors")
		q := query("colors")
		q.Namespace, q.Attributes = "web", "color=blue\nstage=prod"
		r.register(id, "one", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.1", "color": "blue", "stage": "prod"})
		r.register(id, "two", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.2", "color": "blue", "stage": "test"})
		r.register(id, "three", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.3", "color": "red", "stage": "prod"})
		w := watch(t, s, q)
		w.until(at("10.0.0.1", 8080))
		r.register(id, "four", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.4", "color": "blue", "stage": "prod"})
		w.until(at("10.0.0.1", 8080), at("10.0.0.4", 8080))
	})
	t.Run("DISC-013 unhealthy instances are left out", func(t *testing.T) {
		r := &registrar{t, r.client}
		id := r.service("web", "checked")
		q := query("checked")
		q.Namespace = "web"
		r.register(id, "one", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.1"})
		r.register(id, "two", map[string]string{"AWS_INSTANCE_IPV4": "10.0.0.2"})
		w := watch(t, s, q)
		w.until(at("10.0.0.1", 8080), at("10.0.0.2", 8080))
		r.health(id, "one", types.CustomHealthStatusUnhealthy)
		w.until(at("10.0.0.2", 8080))
		r.health(id, "one", types.CustomHealthStatusHealthy)
		w.until(at("10.0.0.1", 8080), at("10.0.0.2", 8080))
	})
	t.Run("what is not there is an error", func(t *testing.T) {
		for _, q := range []string{"nothing", "colors"} {
			missing := query(q) // in namespace apps, which does not exist
			if err := watch(t, s, missing).failure(); err == nil || errors.Is(err, context.Canceled) {
				t.Errorf("watching %s ended with %v", q, err)
			}
		}
	})
}

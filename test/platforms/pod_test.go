//go:build linux

package platforms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/evermesh/evermesh/test/ground"
	"github.com/evermesh/evermesh/test/stage"
)

// The types of Kubernetes as far as our manifests use them: what is not here fails the test.
type (
	metadata struct {
		Name, Namespace string
		Labels          map[string]string
	}
	manifest struct {
		APIVersion, Kind string
		Metadata         metadata
		Spec             json.RawMessage
	}
	serviceSpec struct {
		ClusterIP string
		Selector  map[string]string
		Ports     []struct {
			Name string
			Port int
		}
	}
	workload struct {
		ServiceName string
		Replicas    int
		Selector    struct{ MatchLabels map[string]string }
		Template    struct {
			Metadata metadata
			Spec     podSpec
		}
		VolumeClaimTemplates []struct {
			Metadata metadata
			Spec     json.RawMessage
		}
	}
	podSpec struct {
		ServiceAccountName            string
		TerminationGracePeriodSeconds int
		SecurityContext               securityContext
		InitContainers, Containers    []podContainer
		Volumes                       []podVolume
	}
	securityContext struct {
		RunAsNonRoot, ReadOnlyRootFilesystem bool
		AllowPrivilegeEscalation             *bool
		RunAsUser                            *int
		RunAsGroup, FsGroup                  int
		SeccompProfile                       *struct{ Type string }
		Capabilities                         struct{ Drop, Add []string }
	}
	podContainer struct {
		Name, Image, RestartPolicy string
		Command, Args              []string
		Env                        []struct{ Name, Value string }
		Ports                      []struct {
			Name          string
			ContainerPort int
		}
		StartupProbe, ReadinessProbe, LivenessProbe *probe
		Lifecycle                                   struct {
			PreStop struct {
				Exec  struct{ Command []string }
				Sleep struct{ Seconds int }
			}
		}
		Resources       json.RawMessage
		SecurityContext securityContext
		VolumeMounts    []struct {
			Name, MountPath string
			ReadOnly        bool
		}
	}
	probe struct {
		Exec    struct{ Command []string }
		HTTPGet *struct {
			Path string
			Port int
		}
		TimeoutSeconds, FailureThreshold, PeriodSeconds int
	}
	podVolume struct {
		Name      string
		EmptyDir  *struct{}
		Secret    *struct{ SecretName string }
		ConfigMap *struct{ Name string }
		Projected *struct {
			DefaultMode int
			Sources     []struct {
				ServiceAccountToken struct {
					Path, Audience    string
					ExpirationSeconds int
				}
			}
		}
	}
)

func strict(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

// cluster is what Kubernetes has made of manifests.
type cluster struct {
	token    func(namespace, account, audience string) string
	issuerCA string
	issuer   string
	quicker  *strings.Replacer // of manifests

	mu       sync.Mutex
	files    map[string]map[string]string // of Secrets and ConfigMaps, by namespace/name
	services []manifest
	pods     map[string]*pod // by namespace/name
	count    int
}

// pod is one that runs.
type pod struct {
	name, namespace string
	labels          map[string]string
	spec            podSpec
	claims          []string
	host            *ground.Host
	runs            map[string]*ground.Process
}

// dir is a folder of the pod for a volume, with files of uid 0 that everybody may read, or that everybody may write to.
func (k *cluster) volume(p *pod, v podVolume) (string, error) {
	name := p.namespace + "-" + p.name + "-" + v.Name
	files := map[string]string{}
	switch {
	case v.EmptyDir != nil:
		return emptyDir(name, 0o777, 0)
	case v.Secret != nil:
		files = k.files[p.namespace+"/"+v.Secret.SecretName]
	case v.ConfigMap != nil:
		files = k.files[p.namespace+"/"+v.ConfigMap.Name]
	case v.Projected != nil:
		for _, s := range v.Projected.Sources {
			files[s.ServiceAccountToken.Path] = k.token(p.namespace, p.spec.ServiceAccountName, s.ServiceAccountToken.Audience)
		}
	}
	if len(files) == 0 {
		return "", fmt.Errorf("pod %s: volume %s is not there", p.name, v.Name)
	}
	dir, err := emptyDir(name, 0o755, 0)
	for file, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644))
	}
	return dir, err
}

// container is one of the pod's, as containerd would be told.
func (k *cluster) container(p *pod, c podContainer) (container, error) {
	out := container{
		Name: c.Name, Image: c.Image, Hostname: p.name, Entry: c.Command, Args: c.Args, CapAdd: c.SecurityContext.Capabilities.Add, CapDrop: c.SecurityContext.Capabilities.Drop,
		ReadOnly: c.SecurityContext.ReadOnlyRootFilesystem, NoGain: c.SecurityContext.AllowPrivilegeEscalation != nil && !*c.SecurityContext.AllowPrivilegeEscalation,
	}
	for _, user := range []*int{p.spec.SecurityContext.RunAsUser, c.SecurityContext.RunAsUser} {
		if user != nil {
			out.User = strconv.Itoa(*user)
		}
	}
	if group := p.spec.SecurityContext.FsGroup; group != 0 {
		out.Groups = []int{group}
	}
	for _, e := range c.Env {
		out.Env = append(out.Env, e.Name+"="+e.Value)
	}
	account, err := emptyDir("serviceaccount", 0o755, 0)
	if err != nil {
		return out, err
	}
	ca, err := os.ReadFile(k.issuerCA)
	if err == nil {
		err = os.WriteFile(filepath.Join(account, "ca.crt"), ca, 0o644)
	}
	if err != nil {
		return out, err
	}
	out.Volumes = append(out.Volumes, volume{Source: account, Target: "/var/run/secrets/kubernetes.io/serviceaccount", ReadOnly: true})
	for _, m := range c.VolumeMounts {
		v := volume{Target: m.MountPath, ReadOnly: m.ReadOnly}
		if slices.Contains(p.claims, m.Name) {
			if v.Source, err = emptyDir(p.namespace+"-"+p.name+"-"+m.Name, 0o770, 0); err == nil && world.Owner().Mark == 0 {
				err = os.Chown(v.Source, 0, p.spec.SecurityContext.FsGroup)
			}
		}
		for _, declared := range p.spec.Volumes {
			if declared.Name == m.Name {
				v.Source, err = k.volume(p, declared)
			}
		}
		if err != nil {
			return out, err
		}
		if v.Source == "" {
			return out, fmt.Errorf("pod %s has no volume %s", p.name, m.Name)
		}
		out.Volumes = append(out.Volumes, v)
	}
	return out, nil
}

// launch starts a container of the pod; images that are not ours are stood in for.
func (k *cluster) launch(p *pod, c podContainer) (*ground.Process, error) {
	switch imageName(c.Image) {
	case "http-echo":
		return world.App(p.host, stage.App{Name: p.name, Listen: []string{strings.TrimPrefix(c.Args[0], "-listen=")}})
	case "curl":
		return p.host.Start(ground.Command{Name: c.Name, Path: "/bin/sleep", Args: c.Command[1:]})
	}
	out, err := k.container(p, c)
	if err != nil {
		return nil, err
	}
	return out.start(p.host)
}

func (k *cluster) passes(ctx context.Context, p *pod, c podContainer, of *probe) error {
	if of.HTTPGet != nil {
		client := p.host.Client()
		defer client.CloseIdleConnections()
		answer, err := client.Get(fmt.Sprintf("http://%s:%d%s", p.host.Addr(), of.HTTPGet.Port, of.HTTPGet.Path))
		if err != nil {
			return err
		}
		if err := answer.Body.Close(); err != nil || answer.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %w", answer.Status, err)
		}
		return nil
	}
	return k.exec(ctx, p, c, of.Exec.Command)
}

func (k *cluster) exec(ctx context.Context, p *pod, c podContainer, command []string) error {
	out, err := k.container(p, c)
	if err != nil {
		return err
	}
	out.Name, out.Entry, out.Args = c.Name+"-"+filepath.Base(command[len(command)-1]), command, []string{}
	_, err = out.run(ctx, p.host)
	return err
}

// start starts a pod as the kubelet does: init containers one after the other, sidecars until their startup probe passes.
func (k *cluster) start(ctx context.Context, p *pod) error {
	k.pods[p.namespace+"/"+p.name] = p
	for _, c := range p.spec.InitContainers {
		process, err := k.launch(p, c)
		if err != nil {
			return err
		}
		if c.RestartPolicy != "Always" {
			if err := process.Err(); err != nil {
				return fmt.Errorf("%s: %w%s", c.Name, err, stage.Tail(process.Log()))
			}
			continue
		}
		p.runs[c.Name] = process
		if err := k.started(ctx, p, c); err != nil {
			return err
		}
	}
	for _, c := range p.spec.Containers {
		process, err := k.launch(p, c)
		if err != nil {
			return err
		}
		p.runs[c.Name] = process
		if err := k.started(ctx, p, c); err != nil {
			return err
		}
	}
	return nil
}

func (k *cluster) started(ctx context.Context, p *pod, c podContainer) error {
	for _, of := range []*probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if of == nil {
			continue
		}
		var last error
		err := stage.Until(ctx, c.Name+" of "+p.name+" passes", func(ctx context.Context) bool {
			last = k.passes(ctx, p, c, of)
			return last == nil
		})
		if err != nil {
			return fmt.Errorf("%w: %w%s", err, last, stage.Tail(p.runs[c.Name].Log()))
		}
	}
	return nil
}

// end ends a pod as the kubelet does: all hooks at once, containers after their own, sidecars after all containers.
func (k *cluster) end(ctx context.Context, p *pod) error {
	var mu sync.Mutex
	var errs []error
	failed := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		errs = append(errs, err)
	}
	hook := func(c podContainer) {
		stop := c.Lifecycle.PreStop
		if stop.Exec.Command != nil {
			failed(k.exec(ctx, p, c, stop.Exec.Command))
		}
		<-time.After(time.Duration(stop.Sleep.Seconds) * time.Second)
	}
	var containers, sidecars sync.WaitGroup
	for _, c := range p.spec.Containers {
		containers.Go(func() {
			hook(c)
			failed(p.runs[c.Name].Stop(ctx))
		})
	}
	for _, c := range p.spec.InitContainers {
		if c.RestartPolicy == "Always" {
			sidecars.Go(func() {
				hook(c)
				containers.Wait()
				failed(errors.Join(p.runs[c.Name].Stop(ctx), p.runs[c.Name].Err()))
			})
		}
	}
	containers.Wait()
	sidecars.Wait()
	return errors.Join(errs...)
}

// apply makes what the file says.
func (k *cluster) apply(ctx context.Context, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for _, document := range strings.Split(k.quicker.Replace(string(text)), "\n---\n") {
		object, err := yaml.YAMLToJSON([]byte(document))
		if err != nil {
			return err
		}
		var m manifest
		if err := strict(object, &m); err != nil {
			return err
		}
		switch m.Kind {
		case "Namespace", "ServiceAccount", "PodDisruptionBudget":
		case "Service":
			k.services = append(k.services, m)
		case "StatefulSet", "Deployment":
			var w workload
			if err := strict(m.Spec, &w); err != nil {
				return fmt.Errorf("%s: %w", m.Metadata.Name, err)
			}
			if err := k.roll(ctx, m, w); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s is not understood here", m.Kind)
		}
	}
	return nil
}

// roll starts the pods of a workload.
func (k *cluster) roll(ctx context.Context, m manifest, w workload) error {
	for i := range w.Replicas {
		p := &pod{name: fmt.Sprintf("%s-%d", m.Metadata.Name, i), namespace: m.Metadata.Namespace, labels: w.Template.Metadata.Labels, spec: w.Template.Spec, runs: map[string]*ground.Process{}}
		for _, c := range w.VolumeClaimTemplates {
			p.claims = append(p.claims, c.Metadata.Name)
		}
		var err error
		// The control plane's is where the issuer of tokens and port-forward are.
		if p.host = world.Home(); p.namespace != "evermesh" {
			if p.host, err = world.Host("kubernetes-" + p.name); err != nil {
				return err
			}
		}
		if err := k.start(ctx, p); err != nil {
			return err
		}
		if err := k.publish(); err != nil {
			return err
		}
	}
	return nil
}

// publish has the cluster's names resolve to pods.
func (k *cluster) publish() error {
	for _, m := range k.services {
		var s serviceSpec
		if err := strict(m.Spec, &s); err != nil {
			return err
		}
		addresses := k.addresses(m.Metadata.Namespace, s.Selector["app"])
		for _, name := range []string{m.Metadata.Name + "." + m.Metadata.Namespace + ".svc", m.Metadata.Name + "." + m.Metadata.Namespace + ".svc.cluster.local"} {
			if len(addresses) == 0 {
				world.DNS().Remove(name)
			} else {
				world.DNS().Set(name, addresses...) // at once: who asks in between must not learn that there is none
			}
		}
	}
	return nil
}

// kubectl does what the page says to Kubernetes.
func (k *cluster) kubectl(c call) outcome {
	k.mu.Lock()
	defer k.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	out, err := k.command(ctx, c)
	if err != nil {
		return outcome{Out: out, Err: err.Error() + "\n", Code: 1}
	}
	return outcome{Out: out}
}

func (k *cluster) command(ctx context.Context, c call) (string, error) {
	var words []string
	flags := map[string]string{}
	args := c.Args[1:]
	for len(args) > 0 && args[0] != "--" {
		name, value, ok := strings.Cut(args[0], "=")
		switch {
		case !strings.HasPrefix(name, "-"):
			words = append(words, args[0])
		case ok:
			flags[name] = value
		default:
			if len(args) == 1 {
				return "", io.ErrUnexpectedEOF
			}
			flags[name], args = args[1], args[1:]
		}
		args = args[1:]
	}
	put := func(name string, files map[string]string) error {
		all := map[string]string{}
		for key, file := range files {
			text, err := os.ReadFile(filepath.Join(c.Dir, file))
			if err != nil {
				return err
			}
			all[key] = string(text)
		}
		k.files[flags["-n"]+"/"+name] = all
		return nil
	}
	switch line := strings.Join(words, " "); {
	case strings.HasPrefix(line, "create namespace "), strings.HasPrefix(line, "create clusterrolebinding "), strings.HasPrefix(line, "port-forward "):
		return "", nil
	case strings.HasPrefix(line, "rollout status "):
		return "", nil // apply has waited
	case strings.HasPrefix(line, "create secret tls "):
		return "", put(words[3], map[string]string{"tls.crt": flags["--cert"], "tls.key": flags["--key"]})
	case strings.HasPrefix(line, "create configmap "):
		return "", put(words[2], map[string]string{flags["--from-file"]: flags["--from-file"]})
	case line == "apply":
		return "", k.apply(ctx, filepath.Join(c.Dir, flags["-f"]))
	case line == "get" && flags["--raw"] == "/.well-known/openid-configuration":
		return fmt.Sprintf(`{"issuer":%q,"jwks_uri":"%s/keys"}`, k.issuer, k.issuer), nil
	case words[0] == "exec" && len(args) > 1:
		name := strings.TrimPrefix(words[1], "deployment/")
		for _, try := range []string{name, name + "-0"} {
			if p := k.pods[flags["-n"]+"/"+try]; p != nil {
				return k.into(ctx, p, args[1:])
			}
		}
	}
	return "", fmt.Errorf("kubectl %v is not understood here", c.Args[1:])
}

// into runs a command in the first container of a pod.
func (k *cluster) into(ctx context.Context, p *pod, command []string) (string, error) {
	c := p.spec.Containers[0]
	if imageName(c.Image) == "curl" {
		return p.host.Run(ctx, ground.Command{Name: "exec", Path: "/usr/bin/env", Args: command, Env: []string{"PATH=" + os.Getenv("PATH")}})
	}
	out, err := k.container(p, c)
	if err != nil {
		return "", err
	}
	k.count++
	out.Name, out.Entry, out.Args = fmt.Sprintf("exec-%d", k.count), command, []string{}
	return out.run(ctx, p.host)
}

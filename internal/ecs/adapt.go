package ecs

import (
	"fmt"
	"slices"

	"github.com/evermesh/evermesh/internal/document"
)

// The images of this product, as deploy/images names them.
const (
	DefaultImage             = "evermesh/envoy"
	DefaultRouteManagerImage = "evermesh/route-manager"
)

// Options are what a definition gets.
type Options struct {
	Image       string // of Envoy with its agent; "" is DefaultImage, and only in the place of App Mesh's
	Endpoint    string // APPMESH_XDS_ENDPOINT; "" leaves it
	CASecret    string // ARN of a secret or parameter with the CA of the control plane, as PEM; "" is none
	Credentials string // ARN of a secret with a key as create-access-key answers it; "" is none
	Region      string // the control plane's, for signing; "" leaves it to the resource's ARN, and to what the task is told
}

// Change is one that Adapt made.
type Change struct {
	Where  string `json:"where"`
	Change string `json:"change"`
}

func (c Change) String() string { return c.Where + ": " + c.Change }

// The file with the control plane's CA, the volume it is in, and the container that writes it there: ECS gives secrets to
// programs as variables alone.
const (
	caName = "evermesh-ca"
	caDir  = "/evermesh-ca"
	caFile = caDir + "/ca.pem"
)

// nfsPort is that of EFS, which ECS mounts before Envoy runs (ICPT-027, ECS-016, TRBL-014).
const nfsPort = "2049"

// adapter makes the changes of one definition.
type adapter struct {
	*Definition
	changes []Change
	envoy   *document.Node // its container
}

// Adapt returns a copy of the definition with the smallest change that makes it work here, and what was changed. What it cannot
// know is left to Check.
func (d *Definition) Adapt(o Options) (*Definition, []Change, error) {
	a := &adapter{Definition: &Definition{file: d.file, node: clone(d.node), forms: d.forms, Task: d.Task}}
	envoy := d.Envoy()
	if envoy == nil {
		return a.Definition, nil, nil
	}
	a.envoy = item(a.node.Get("containerDefinitions"), "name", envoy.Name)
	if a.envoy == nil {
		return a.Definition, nil, nil // it has no name, which Check says
	}
	switch {
	case o.Image != "" && envoy.Image != o.Image:
		a.member("image", text(o.Image), "%s", o.Image)
	case o.Image == "" && appMeshImage(envoy.Image):
		a.member("image", text(DefaultImage), "%s", DefaultImage)
	}
	if o.Endpoint != "" {
		a.env("APPMESH_XDS_ENDPOINT", o.Endpoint)
	}
	if o.Region != "" {
		a.env("AWS_REGION", o.Region)
	}
	if o.CASecret != "" {
		a.authority(envoy, o)
	}
	if o.Credentials != "" {
		a.secret("AWS_ACCESS_KEY_ID", o.Credentials+":AccessKeyId::")
		a.secret("AWS_SECRET_ACCESS_KEY", o.Credentials+":SecretAccessKey::")
	}
	if need := envoy.stopNeeded(); envoy.stop() < need {
		a.member("stopTimeout", number(need), "%d, which is the drain time and %d s", need, drainBeyond)
	}
	a.efs()
	return a.Definition, a.changes, a.decode()
}

func (a *adapter) say(n *document.Node, format string, args ...any) {
	a.changes = append(a.changes, Change{a.where(n), fmt.Sprintf(format, args...)})
}

// member sets a member of the proxy's container.
func (a *adapter) member(name string, value *document.Node, format string, args ...any) {
	old := a.envoy.Get(name)
	what := "was not set"
	if was, ok := old.Plain(); ok {
		what = "was " + was
	}
	a.say(old, "%s.%s is %s; it %s", nameOf(a.envoy), name, fmt.Sprintf(format, args...), what)
	set(a.envoy, name, value)
}

func nameOf(container *document.Node) string {
	name, _ := container.Get("name").Text()
	return name
}

// env sets a variable of the proxy's container.
func (a *adapter) env(name, value string) {
	all := list(a.envoy, "environment")
	one := item(all, "name", name)
	switch was, _ := one.Get("value").Text(); {
	case one == nil:
		a.say(all, "%s has the variable %s=%s", nameOf(a.envoy), name, value)
		all.Items = append(all.Items, object("name", text(name), "value", text(value)))
	case was != value:
		a.say(one, "%s has the variable %s=%s; it was %s", nameOf(a.envoy), name, value, was)
		set(one, "value", text(value))
	}
}

// secret gives the proxy's container a variable from a secret.
func (a *adapter) secret(name, from string) {
	all := list(a.envoy, "secrets")
	one := item(all, "name", name)
	if was, _ := one.Get("valueFrom").Text(); one != nil && was == from {
		return
	}
	a.say(one, "%s has the variable %s from the secret %s", nameOf(a.envoy), name, from)
	if one != nil {
		set(one, "valueFrom", text(from))
		return
	}
	all.Items = append(all.Items, object("name", text(name), "valueFrom", text(from)))
}

// authority puts the control plane's CA where the proxy finds it: a container of the same image writes it to a volume first.
func (a *adapter) authority(envoy *Container, o Options) {
	containers := a.node.Get("containerDefinitions")
	if had := item(containers, "name", caName); had != nil {
		one := item(had.Get("secrets"), "name", "CA")
		if was, _ := one.Get("valueFrom").Text(); was == o.CASecret {
			return
		}
	}
	image, _ := a.envoy.Get("image").Text()
	writer := object(
		"name", text(caName), "image", text(image), "essential", truth(false), "user", text("0"),
		"entryPoint", items(text("/bin/sh"), text("-c")), "command", items(text(`printf '%s\n' "$CA" > `+caFile)),
		"secrets", items(object("name", text("CA"), "valueFrom", text(o.CASecret))),
		"mountPoints", items(object("sourceVolume", text(caName), "containerPath", text(caDir))),
	)
	if a.MiB() == 0 {
		set(writer, "memoryReservation", number(16)) // one of the two must say it
	}
	for i, c := range containers.Items {
		if nameOf(c) == caName {
			containers.Items = slices.Delete(containers.Items, i, i+1)
			break
		}
	}
	containers.Items = append(containers.Items, writer)
	a.say(nil, "the container %s writes the CA of the secret %s to the volume of that name, before %s starts", caName, o.CASecret, envoy.Name)
	if volumes := list(a.node, "volumes"); item(volumes, "name", caName) == nil {
		volumes.Items = append(volumes.Items, object("name", text(caName)))
	}
	if mounts := list(a.envoy, "mountPoints"); item(mounts, "sourceVolume", caName) == nil {
		mounts.Items = append(mounts.Items, object("sourceVolume", text(caName), "containerPath", text(caDir), "readOnly", truth(true)))
	}
	if depends := list(a.envoy, "dependsOn"); item(depends, "containerName", caName) == nil {
		depends.Items = append(depends.Items, object("containerName", text(caName), "condition", text("SUCCESS")))
	}
	a.env("APPMESH_XDS_CA_FILE", caFile)
}

// efs leaves the port alone by which ECS mounts EFS volumes before any container runs.
func (a *adapter) efs() {
	if a.Proxy == nil || !a.needsNFS() {
		return
	}
	all := list(a.node.Get("proxyConfiguration"), "properties")
	one := item(all, "name", EgressIgnoredPorts)
	if one == nil {
		one = object("name", text(EgressIgnoredPorts), "value", text(""))
		all.Items = append(all.Items, one)
	}
	value := nfsPort
	if was := a.Proxy.Property(EgressIgnoredPorts); was != "" {
		value = was + "," + nfsPort
	}
	a.say(one, "%s is %s: ECS mounts EFS volumes before Envoy runs", EgressIgnoredPorts, value)
	set(one, "value", text(value))
}

// needsNFS says whether there is an EFS volume, and its port is not left alone.
func (t *Task) needsNFS() bool {
	return slices.ContainsFunc(t.Volumes, func(v Volume) bool { return v.EFS != nil }) && !slices.Contains(t.Proxy.List(EgressIgnoredPorts), nfsPort)
}

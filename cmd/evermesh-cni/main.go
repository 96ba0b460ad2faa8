// Command evermesh-cni is the CNI plugin aws-appmesh: it is installed under that name where CNI plugins are looked for
// (/opt/cni/bin, /amazon-ecs-cni-plugins), and redirects a container's traffic into its Envoy as its network is made.
//
// It is [cni.Run] with the program's environment, and needs nft or iptables-restore on the node.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/evermesh/evermesh/internal/cni"
)

// version is set by the build with -ldflags -X.
var version = "devel"

const helpText = `evermesh-cni is the CNI plugin aws-appmesh: it redirects a container's TCP traffic into its Envoy.
Install it under the name aws-appmesh. Container runtimes call it; CNI_COMMAND says what to do (ADD, DEL, CHECK,
VERSION), and the configuration is JSON on its input:

  {"cniVersion": "0.4.0", "name": "mesh", "type": "aws-appmesh", "ignoredUID": "1337",
   "proxyIngressPort": "15000", "proxyEgressPort": "15001", "appPorts": ["8080"],
   "egressIgnoredPorts": ["2049"], "egressIgnoredIPs": ["169.254.169.254"], "enableIPv6": true}

  ignoredGID        a group beside the user or instead of it
  backend           nft, iptables, iptables-nft, iptables-legacy or auto (auto)
  logFile           /log/aws-appmesh.log where there is /log, else stderr
`

func main() {
	if len(os.Args) > 1 || os.Getenv("CNI_COMMAND") == "" {
		text, to, code := helpText, os.Stderr, 1
		if len(os.Args) > 1 {
			to, code = os.Stdout, 0
			if os.Args[1] == "version" || os.Args[1] == "--version" {
				text = "evermesh-cni " + version + "\n"
			}
		}
		fmt.Fprint(to, text)
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// Runtimes call plugins with a short PATH at times, and the tools are where administrators have them.
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin") // fails for wrong names only
	code := cni.Run(ctx, os.Getenv, os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

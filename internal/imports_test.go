// Package internal holds nothing but the rules of the repository, as tests:
// which package may lean on which, what the pure core may not touch, and what
// every file, comment and document has to keep to.
package internal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/evermesh/evermesh"

// mayImport is the import table: for each package, which of ours it may import,
// and why it may not import more. A new arrow is a new word in this table and
// wants a reviewer's yes; a new package is a new row.
var mayImport = map[string]struct {
	of     []string
	reason string
}{
	"internal/model":                           {nil, "the schema depends on nothing that is made from it"},
	"internal/model/modeltest":                 {[]string{"model"}, "it draws documents from the schema, for tests"},
	"internal/model/gen":                       {[]string{"model"}, "the generator reads the schema only"},
	"internal/model/subset":                    {nil, "it makes the schema, from the public one"},
	"internal/api":                             {nil, "the vocabulary depends on nothing that speaks it"},
	"internal/api/acmapi":                      {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/cloudmapapi":                 {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/eksapi":                      {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/eksauthapi":                  {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/iamapi":                      {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/pcaapi":                      {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/quotasapi":                   {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/ramapi":                      {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/stsapi":                      {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/taggingapi":                  {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/api/trailapi":                    {[]string{"api"}, "a vocabulary is generated from its model"},
	"internal/mesh":                            {[]string{"api"}, "views are pure functions of resources"},
	"internal/loopback":                        {nil, "an address follows from a name alone"},
	"internal/envoy":                           {[]string{"api", "loopback", "mesh"}, "bundles are pure functions of views"},
	"internal/policy":                          {nil, "what policies say follows from their text and the request alone"},
	"internal/envoy/sdstest":                   {nil, "it issues certificates and serves secrets, for tests"},
	"internal/envoy/envoytest":                 {[]string{"api", "mesh", "envoy", "testenv"}, "it reads the translator's cases and runs real Envoys, for tests"},
	"internal/simulate":                        {[]string{"envoy"}, "it reads bundles as Envoy does, whatever they were made from"},
	"internal/auth":                            {[]string{"api"}, "who is asking is settled before anything else is known"},
	"internal/store":                           {[]string{"api"}, "the store keeps records and does not understand them"},
	"internal/wire":                            {[]string{"model", "api"}, "protocols write documents and know no service"},
	"internal/forward":                         {nil, "it passes requests on and reads none of them"},
	"internal/service":                         {[]string{"model", "auth", "policy"}, "what is true of all services knows none of them"},
	"internal/quota":                           {[]string{"api", "api/quotasapi", "mesh", "service", "store"}, "quotas are records, and numbers that mesh counts by"},
	"internal/tagging":                         {[]string{"api", "api/taggingapi", "mesh", "service"}, "it reads snapshots, and writes as App Mesh itself does"},
	"internal/share":                           {[]string{"api", "api/ramapi", "auth", "service", "store"}, "shares are records, and who may do what by them"},
	"internal/store/storetest":                 {[]string{"api", "mesh", "store", "testenv"}, "it opens real stores, for tests"},
	"internal/seal":                            {[]string{"api", "store"}, "it seals secrets and knows none"},
	"internal/iam":                             {[]string{"model", "api", "api/iamapi", "auth", "store", "seal", "service", "policy"}, "accounts and who is in them are records that auth reads"},
	"internal/audit":                           {[]string{"api", "api/trailapi", "auth", "service", "store", "audit/segment"}, "it keeps what others record, and steers nobody"},
	"internal/audit/segment":                   {nil, "files of entries know nothing of what they keep"},
	"internal/sts":                             {[]string{"api", "api/stsapi", "auth", "policy", "service", "sts/oidc"}, "it makes sessions of roles, and is told which there are"},
	"internal/sts/accounts":                    {[]string{"auth", "iam", "policy", "sts"}, "it joins who keeps accounts with who makes sessions"},
	"internal/sts/podidentity":                 {[]string{"api", "api/eksapi", "api/eksauthapi", "api/stsapi", "auth", "policy", "service", "store", "sts", "sts/oidc"}, "it keeps which pod has which role, and has sessions made"},
	"internal/sts/proxyauth":                   {[]string{"api", "api/eksauthapi", "api/stsapi", "auth", "sts", "sts/podidentity"}, "it says who a stream is of, and not what it may have"},
	"internal/sts/oidc":                        {[]string{"api", "api/stsapi"}, "it verifies tokens and does not know what they are good for"},
	"internal/sts/oidc/oidctest":               {nil, "it is an identity provider, for tests"},
	"internal/discovery":                       {[]string{"api", "mesh", "envoy", "store"}, "it answers queries that views ask, and keeps the answers"},
	"internal/discovery/cloudmap":              {[]string{"envoy", "discovery"}, "a source knows its registry and nobody's needs"},
	"internal/cloudmap":                        {[]string{"api", "api/cloudmapapi", "envoy", "store", "service", "discovery"}, "services and instances are records, and a source of endpoints"},
	"internal/meshdns":                         {[]string{"api/cloudmapapi", "mesh", "cloudmap"}, "it answers names from what the registry has in memory"},
	"internal/discovery/cloudmap/cloudmaptest": {nil, "a registry for tests knows nobody"},
	"internal/certs":                           {[]string{"api", "api/acmapi", "api/pcaapi", "auth", "certs/authority", "seal", "secrets", "service", "store"}, "certificates are records, and what proxies get of them goes through secrets"},
	"internal/certs/identity":                  {[]string{"api", "api/pcaapi", "auth", "certs", "certs/authority", "mesh", "secrets"}, "identities follow from a mesh's settings and a secret, and are stored nowhere"},
	"internal/certs/remote":                    {[]string{"api", "auth", "certs/authority", "forward", "secrets"}, "certificates that are elsewhere are asked for, and kept by nobody here"},
	"internal/certs/authority":                 {[]string{"api/pcaapi"}, "certificates are made of keys and words, and of nothing that is stored"},
	"internal/ledger":                          {[]string{"api", "mesh", "store"}, "it writes down what streams report, and never steers them"},
	"internal/ads":                             {[]string{"api", "catchup", "mesh", "envoy", "auth"}, "streams deliver bundles and do not know where they come from"},
	"internal/secrets":                         {[]string{"api", "auth", "envoy"}, "it makes what bundles only name, and knows no stream"},
	"internal/secrets/secretstest":             {[]string{"api", "auth", "envoy/sdstest", "secrets"}, "it is an issuer, for tests"},
	"internal/catchup":                         {[]string{"api"}, "it waits for memories, whoever keeps them"},
	"internal/publish":                         {[]string{"api", "catchup", "mesh", "envoy", "store", "discovery", "ads"}, "the one loop from the store to the streams"},
	"internal/drain":                           {[]string{"api", "mesh", "envoy", "store", "discovery", "ledger", "ads"}, "it says which endpoints nobody is to be sent, of those that a node's queries find, and asks the ledger who has followed"},
	"internal/plan":                            {[]string{"api", "mesh", "envoy"}, "what a change would do is a pure function of a snapshot"},
	"internal/rest":                            {[]string{"model", "api", "api/pcaapi", "catchup", "mesh", "plan", "store", "auth", "service", "wire", "forward"}, "the API reaches proxies only through the store"},
	"internal/rest/resttest":                   {[]string{"api", "auth", "rest", "service", "store", "store/storetest", "testenv"}, "it serves any service to real clients, for tests"},
	"internal/apply":                           {[]string{"api", "client"}, "it changes resources through the API alone"},
	"internal/document":                        {nil, "it reads files and does not know what they say"},
	"internal/manifest":                        {[]string{"model", "api", "document"}, "it turns manifests into inputs of the API, and asks nobody"},
	"internal/cloudformation":                  {[]string{"model", "api", "document"}, "a template is resolved from its text and its options alone"},
	"internal/man":                             {nil, "pages are made of commands, whatever they do"},
	"internal/ecs":                             {[]string{"document"}, "what a task definition comes to follows from its text alone"},
	"internal/client":                          {[]string{"model", "api", "auth"}, "a client knows the wire and not the server"},
	"internal/agent":                           {[]string{"agent/bootstrap", "agent/envoyadmin", "agent/httpapi", "agent/logs", "agent/owner", "agent/pause", "agent/platform", "agent/relay", "agent/settings", "agent/supervise"}, "it ties the agent's parts together; it runs beside every workload and stays small"},
	"internal/agent/settings":                  {[]string{"api"}, "what is asked for, before anything is done"},
	"internal/agent/bootstrap":                 {[]string{"agent/settings", "api"}, "a bootstrap follows from settings and facts alone"},
	"internal/agent/platform":                  {[]string{"agent/bootstrap", "agent/settings"}, "it asks the machine and its platform, and knows no control plane"},
	"internal/agent/relay":                     {[]string{"agent/lastgood", "agent/pause", "agent/settings", "agent/socket", "sockets"}, "it passes messages on and knows no Envoy process"},
	"internal/agent/lastgood":                  {[]string{"agent/owner"}, "it is shown messages and gives messages: it knows no server and no setting"},
	"internal/agent/supervise":                 {[]string{"agent/envoyadmin", "agent/pause", "agent/settings"}, "it runs a process, whatever that is told"},
	"internal/agent/envoyadmin":                {[]string{"agent/pause", "agent/settings"}, "it asks Envoy"},
	"internal/agent/httpapi":                   {[]string{"agent/envoyadmin", "agent/pause", "agent/relay", "agent/settings", "agent/socket", "gate", "sockets"}, "it tells how it goes, and steers Envoy through its own interface"},
	"internal/gate":                            {nil, "it counts connections, whoever serves them"},
	"internal/agent/logs":                      {[]string{"agent/owner"}, "lines have a form"},
	"internal/agent/owner":                     {nil, "it looks at a file"},
	"internal/agent/pause":                     {nil, "it waits"},
	"internal/agent/socket":                    {nil, "it listens"},
	"internal/agent/agenttest":                 {[]string{"agent/logs", "agent/pause", "auth", "testenv"}, "it is what is around an agent, for tests"},
	"internal/testenv":                         {nil, "it says what tests need of the machine, and nothing of the product"},
	"internal/ads/adstest":                     {[]string{"testenv"}, "it is the other end of the wire, for tests"},
	"internal/intercept":                       {nil, "the init container does one thing"},
	"internal/intercept/probe":                 {[]string{"intercept", "sockets"}, "it proves rules by traffic and makes none"},
	"internal/sockets":                         {nil, "it reads a list of the kernel's"},
	"internal/cni":                             {[]string{"intercept"}, "a plugin installs rules and knows no mesh"},
}

// restricted are modules of others that only the named packages may link,
// directly or through something else.
var restricted = []struct {
	packages, banned []string
	reason           string
}{
	{
		[]string{"./internal/agent", "./cmd/evermesh-agent", "./internal/intercept", "./cmd/evermesh-cni"},
		[]string{"go.etcd.io/", "k8s.io/client-go", "k8s.io/api", "sigs.k8s.io/controller-runtime"},
		"the agent runs beside every workload: etcd and Kubernetes would double its size and its attack surface",
	},
	{
		[]string{"./cmd/evermesh-cni"},
		[]string{"google.golang.org/", "github.com/aws/", "github.com/envoyproxy/"},
		"the plugin runs for a moment, for every container, and has no use for a client of anything",
	},
	{
		[]string{"./internal/model", "./internal/api", "./internal/mesh", "./internal/envoy", "./internal/ads", "./internal/auth", "./internal/client", "./cmd/evermesh"},
		[]string{"go.etcd.io/etcd/server"},
		"only the control plane embeds etcd",
	},
}

// goPackage is what `go list -json` says of a package.
type goPackage struct {
	ImportPath string
	Imports    []string
}

func listPackages(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// wrongImports returns a line for every arrow that the table does not have.
func wrongImports(packages []goPackage) []string {
	var wrong []string
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imported := range p.Imports {
			of, ours := strings.CutPrefix(imported, module+"/")
			if !ours {
				continue
			}
			if strings.HasPrefix(of, "test/") && !strings.HasPrefix(name, "test/") {
				wrong = append(wrong, fmt.Sprintf("%s imports %s: what ships does not lean on tests", name, of))
			}
			if !strings.HasPrefix(name, "internal/") {
				continue // programs and tests may import anything
			}
			row, known := mayImport[name]
			if !known {
				wrong = append(wrong, fmt.Sprintf("%s has no row in the import table: add one, and say why it may import what it does", name))
				break
			}
			if !slices.Contains(row.of, strings.TrimPrefix(of, "internal/")) {
				wrong = append(wrong, fmt.Sprintf("%s may not import %s: %s", name, of, row.reason))
			}
		}
	}
	return wrong
}

func TestImportTable(t *testing.T) {
	packages := listPackages(t)
	for _, w := range wrongImports(packages) {
		t.Error(w)
	}
	for name := range mayImport {
		if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.ImportPath == module+"/"+name }) {
			t.Errorf("the import table has a row for %s, which does not exist", name)
		}
	}
}

// The table would be no rule if it could not fail.
func TestImportTableRefuses(t *testing.T) {
	for _, c := range []struct{ from, to, want string }{
		{"internal/mesh", "internal/store", "pure functions"},
		{"internal/rest", "internal/ads", "only through the store"},
		{"internal/new", "internal/api", "no row"},
		{"cmd/evermeshd", "test/ground", "does not lean on tests"},
	} {
		got := wrongImports([]goPackage{{ImportPath: module + "/" + c.from, Imports: []string{"fmt", module + "/" + c.to}}})
		if len(got) != 1 || !strings.Contains(got[0], c.want) {
			t.Errorf("%s imports %s: got %q, want one line with %q", c.from, c.to, got, c.want)
		}
	}
}

func TestRestrictedModules(t *testing.T) {
	for _, r := range restricted {
		for _, pkg := range r.packages {
			if found, _ := filepath.Glob(filepath.Join(root, pkg, "*.go")); len(found) == 0 {
				t.Errorf("the rule names %s, which does not exist", pkg)
				continue
			}
			cmd := exec.Command("go", "list", "-e", "-deps", pkg)
			cmd.Dir = root
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("go list -deps %s: %v", pkg, err)
			}
			for _, dep := range strings.Fields(string(out)) {
				if slices.ContainsFunc(r.banned, func(b string) bool { return strings.HasPrefix(dep, b) }) {
					t.Errorf("%s links %s: %s", pkg, dep, r.reason)
				}
			}
		}
	}
}

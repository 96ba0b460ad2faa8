package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"
)

// refreshBefore is how long before their end credentials are replaced. They are asked for when a stream opens, so the
// agents of a fleet do not ask all at once.
const refreshBefore = 5 * time.Minute

// chain finds credentials by the rules of AWS's tools: environment, shared files, web identity, the endpoints of ECS
// and EKS, the instance's metadata (AGENT-044). Nothing is asked before the first signature. Shared files that change
// are read again; credentials that cannot be replaced before their end are used until then.
type chain struct {
	dialer *net.Dialer
	getenv func(string) string
	log    *slog.Logger
	tune   func(*http.Transport) // nil, but in tests

	mu    sync.Mutex
	found *aws.CredentialsCache // nil before the first search
	files string                // what the shared files were like then
	last  aws.Credentials       // the last good ones; their end is refreshBefore after the one that is in them
	again time.Time             // when their source, which was silent, is asked again
}

func newChain(dialer *net.Dialer, log *slog.Logger) *chain {
	return &chain{dialer: dialer, getenv: os.Getenv, log: log}
}

// Retrieve returns credentials that are valid now.
func (c *chain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	cache, err := c.load(ctx)
	if err != nil {
		return aws.Credentials{}, c.discreet(err)
	}
	if last, ok := c.pausing(); ok {
		return last, nil
	}
	got, err := cache.Retrieve(ctx)
	err = c.discreet(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.last, c.again = got, time.Time{}
		return got, nil
	case c.lasts():
		c.again = time.Now().Add(credentialsRetry)
		return c.last, nil
	}
	return aws.Credentials{}, err
}

// lasts says whether the last good credentials are good still. mu is held.
func (c *chain) lasts() bool {
	return c.last.HasKeys() && c.last.CanExpire && time.Now().Before(c.last.Expires.Add(refreshBefore))
}

// pausing returns the last good credentials while their source is left alone: a silent one would hold each stream up.
func (c *chain) pausing() (aws.Credentials, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last, c.lasts() && time.Now().Before(c.again)
}

// load reads the settings of AWS's tools, again when a shared file changed.
func (c *chain) load(ctx context.Context) (*aws.CredentialsCache, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.stamp()
	if c.found != nil && c.files == now {
		return c.found, nil
	}
	client := awshttp.NewBuildableClient().WithDialerOptions(func(d *net.Dialer) {
		d.Control, d.Resolver = c.dialer.Control, c.dialer.Resolver
	}).WithTransportOptions(func(t *http.Transport) {
		t.Proxy = nil // a forward proxy's metadata service is not this machine's
		if c.tune != nil {
			c.tune(t)
		}
	})
	metadata := &versionTwo{}
	settings, err := config.LoadDefaultConfig(ctx, config.WithHTTPClient(client),
		config.WithLogger(c.sdkLog(c.log)),
		config.WithEC2RoleCredentialOptions(metadata.use),
		config.WithEndpointCredentialOptions(func(o *endpointcreds.Options) { o.HTTPClient = client }), // which has one of its own otherwise
		config.WithCredentialsCacheOptions(func(o *aws.CredentialsCacheOptions) {
			o.ExpiryWindow = refreshBefore
		}))
	if err != nil {
		return nil, fmt.Errorf("read AWS settings: %w", err)
	}
	metadata.prepare(settings)
	cache, ok := settings.Credentials.(*aws.CredentialsCache)
	if !ok {
		cache = aws.NewCredentialsCache(settings.Credentials)
	}
	c.found, c.files, c.last = cache, now, aws.Credentials{}
	return cache, nil
}

// invalidate has the next search ask the source anew: what it gave was refused.
func (c *chain) invalidate() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last, c.again = aws.Credentials{}, time.Time{}
	if c.found != nil {
		c.found.Invalidate()
	}
}

// sharedFiles are those that AWS's tools read.
func (c *chain) sharedFiles() []string {
	home := cmp.Or(c.getenv("HOME"), "/")
	return []string{
		cmp.Or(c.getenv("AWS_SHARED_CREDENTIALS_FILE"), filepath.Join(home, ".aws", "credentials")),
		cmp.Or(c.getenv("AWS_CONFIG_FILE"), filepath.Join(home, ".aws", "config")),
	}
}

// stamp changes when a shared file does.
func (c *chain) stamp() string {
	var b strings.Builder
	for _, file := range c.sharedFiles() {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintf(&b, "%d %d", info.ModTime().UnixNano(), info.Size())
			if of, ok := info.Sys().(*syscall.Stat_t); ok {
				fmt.Fprintf(&b, " %d", of.Ino)
			}
		}
		b.WriteString("|")
	}
	return b.String()
}

// onlyMetadata says that nothing but the instance's metadata service is left to ask: on machines that are not
// Amazon's it is silent, and a search must not hold a stream up for long.
func (c *chain) onlyMetadata() bool { return strings.HasPrefix(c.words(), metadataWords) }

const metadataWords = "EC2 instance metadata"

// words say where credentials are looked for, in the order of AWS's tools; of what is tried only the last word is
// known to nobody but the SDK.
func (c *chain) words() string {
	has := func(name string) bool { return c.getenv(name) != "" }
	switch {
	case has("AWS_ACCESS_KEY_ID") && has("AWS_SECRET_ACCESS_KEY"):
		return "environment (AWS_ACCESS_KEY_ID)"
	case has("AWS_WEB_IDENTITY_TOKEN_FILE"):
		return fmt.Sprintf("web identity (%s, role %s, STS %s)", c.readable("AWS_WEB_IDENTITY_TOKEN_FILE"), cmp.Or(c.getenv("AWS_ROLE_ARN"), "missing: set AWS_ROLE_ARN"),
			cmp.Or(c.getenv("AWS_ENDPOINT_URL_STS"), c.getenv("AWS_ENDPOINT_URL"), "AWS's own, whose sessions evermeshd does not know: set AWS_ENDPOINT_URL_STS"))
	}
	if words := c.shared(); words != "" {
		return words
	}
	switch {
	case has("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
		return "container credentials (" + discreetURI("http://169.254.170.2"+c.getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")) + ")"
	case has("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
		return "container credentials (" + discreetURI(c.getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")) + c.readable("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") + ")"
	case strings.EqualFold(c.getenv("AWS_EC2_METADATA_DISABLED"), "true"):
		return "nowhere (no variable, no file, AWS_EC2_METADATA_DISABLED)"
	}
	return metadataWords + " (IMDSv2 at " + cmp.Or(c.getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT"), "http://169.254.169.254") + ")"
}

// shared says which shared file credentials come from, or cannot be read; "" when none has any.
func (c *chain) shared() string {
	files := c.sharedFiles()
	for _, file := range files {
		if f, err := os.Open(file); err == nil {
			f.Close()
		} else if !os.IsNotExist(err) {
			return "shared file (" + unreadable(file, err) + ")"
		}
	}
	profile := c.getenv("AWS_PROFILE")
	got, err := config.LoadSharedConfigProfile(context.Background(), cmp.Or(profile, "default"), func(o *config.LoadSharedConfigOptions) {
		o.CredentialsFiles, o.ConfigFiles = files[:1], files[1:]
	})
	if err != nil && profile == "" && errors.As(err, new(config.SharedConfigProfileNotExistError)) {
		return ""
	}
	way := ""
	switch {
	case err != nil:
		way = ", " + reason([]byte(err.Error()))
	case got.CredentialProcess != "":
		way = ", credential_process"
	case got.RoleARN != "":
		way = ", role " + got.RoleARN
	case !got.Credentials.HasKeys() && got.WebIdentityTokenFile == "" && got.SSOAccountID == "" && got.CredentialSource == "":
		return ""
	}
	return fmt.Sprintf("shared file (%s, profile %s%s)", strings.Join(files, ", "), cmp.Or(profile, "default"), way)
}

// discreetURI is a URI for the log. The last part of ECS's path is as good as the credentials to whoever can reach the
// endpoint, and so may be a query or a password of others.
func discreetURI(uri string) string {
	u, err := url.Parse(uri)
	if err != nil {
		return "a URI that cannot be read"
	}
	if u.Host == "" {
		return "a URI without a host"
	}
	return u.Scheme + "://" + u.Host + strings.TrimSuffix(path.Dir(cmp.Or(u.Path, "/")), "/") + "/…"
}

// discreet is an error for the log: it repeats no URI of credentials.
func (c *chain) discreet(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	for _, name := range []string{"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if uri := c.getenv(name); len(uri) > 1 {
			text = strings.ReplaceAll(text, uri, "…")
		}
	}
	return &said{text, err}
}

// said is an error in other words.
type said struct {
	text string
	err  error
}

func (s *said) Error() string { return s.text }
func (s *said) Unwrap() error { return s.err }

// readable names the file of a variable, and says when it cannot be read.
func (c *chain) readable(variable string) string {
	file := c.getenv(variable)
	if file == "" {
		return ""
	}
	return " token " + readable(file)
}

// readable is the file's name, with why it cannot be read: that looks like trouble with the network otherwise.
func readable(file string) string {
	f, err := os.Open(file)
	if err == nil {
		f.Close()
		return file
	}
	return unreadable(file, err)
}

// unreadable says why a file cannot be read; a pod's token is readable for the agent's user only with fsGroup.
func unreadable(file string, err error) string {
	if os.IsPermission(err) {
		return fmt.Sprintf("%s, unreadable for uid %s: in Kubernetes set securityContext.fsGroup", file, uid())
	}
	if os.IsNotExist(err) {
		return file + ", which is not there"
	}
	return file + ", unreadable"
}

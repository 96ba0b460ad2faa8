package podidentity

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/evermesh/evermesh/internal/api"
	"github.com/evermesh/evermesh/internal/api/eksauthapi"
)

// ContainerPath is where pods ask for credentials without an agent on their node: with
// AWS_CONTAINER_CREDENTIALS_FULL_URI=https://CONTROL-PLANE + ContainerPath + CLUSTER and
// AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE every SDK of AWS does. ACCOUNT/CLUSTER says
// which account's cluster is meant.
const ContainerPath = "/evermesh/v1/pod-identity/"

// meant is the key of a context's value: the account that a pod's path names.
type meant struct{}

// Container answers AWS's provider of container credentials: its request is turned into
// EKS Auth's AssumeRoleForPodIdentity, which api serves, and the answer into the document
// that the provider wants. Other requests go to api as they are.
func Container(api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cluster, ok := strings.CutPrefix(r.URL.Path, ContainerPath)
		account := ""
		if before, after, named := strings.Cut(cluster, "/"); named && len(before) == 12 && strings.Trim(before, "0123456789") == "" {
			account, cluster = before, after
		}
		if !ok || cluster == "" || strings.Contains(cluster, "/") || r.Method != http.MethodGet {
			api.ServeHTTP(w, r)
			return
		}
		body, err := json.Marshal(map[string]string{"token": r.Header.Get("Authorization")})
		if err != nil {
			http.Error(w, "The token cannot be read.", http.StatusBadRequest)
			return
		}
		inner := r.Clone(context.WithValue(r.Context(), meant{}, account))
		inner.Method, inner.URL = http.MethodPost, &url.URL{Path: "/clusters/" + cluster + "/assume-role-for-pod-identity"}
		inner.RequestURI, inner.ContentLength = inner.URL.EscapedPath(), int64(len(body))
		inner.Header = http.Header{"Content-Type": {"application/json"}, "User-Agent": r.Header["User-Agent"]}
		inner.Body = http.NoBody
		if len(body) > 0 {
			inner.Body = closer{bytes.NewReader(body)}
		}
		kept := &kept{header: http.Header{}, status: http.StatusOK}
		api.ServeHTTP(kept, inner)
		kept.answer(w)
	})
}

type closer struct{ *bytes.Reader }

func (closer) Close() error { return nil }

// kept is an answer that is not sent.
type kept struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (k *kept) Header() http.Header         { return k.header }
func (k *kept) WriteHeader(status int)      { k.status = status }
func (k *kept) Write(b []byte) (int, error) { return k.body.Write(b) }

// document is what the provider of container credentials reads.
type document struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string
	Token           string
	AccountID       string `json:"AccountId,omitempty"`
	Expiration      string
}

// answer answers as the provider wants it: the document, or code and message.
func (k *kept) answer(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if id := k.header.Get("X-Amzn-Requestid"); id != "" {
		w.Header().Set("X-Amzn-Requestid", id)
	}
	var out eksauthapi.AssumeRoleForPodIdentityResponse
	if k.status != http.StatusOK || json.Unmarshal(k.body.Bytes(), &out) != nil {
		refusal := struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		}{Code: k.header.Get("X-Amzn-Errortype")}
		_ = json.Unmarshal(k.body.Bytes(), &refusal)
		w.WriteHeader(max(k.status, http.StatusBadRequest))
		_ = json.NewEncoder(w).Encode(refusal)
		return
	}
	c := out.Credentials
	of, _ := api.ParseResourceName(out.AssumedRoleUser.ARN)
	_ = json.NewEncoder(w).Encode(document{
		AccessKeyID: c.AccessKeyID, SecretAccessKey: c.SecretAccessKey, Token: c.SessionToken,
		AccountID: of.Account, Expiration: c.Expiration.UTC().Format(time.RFC3339),
	})
}

package audit

import (
	"context"
	"time"

	"github.com/evermesh/evermesh/internal/api"
)

// QuotaUsage is that most of a quota of connected proxies is used (QUOTA-003).
type QuotaUsage struct {
	ARN         string // of the node or gateway
	Code        string // L-606A910B
	Used, Limit int
	At          time.Time
}

// quotaDetails are its, in its event.
type quotaDetails struct {
	Code  string `json:"quotaCode"`
	ARN   string `json:"resourceArn"`
	Used  int    `json:"used"`
	Limit int    `json:"limit"`
}

const quotaSource = "servicequotas.amazonaws.com"

// Quota keeps it as an event of the account that is in the ARN.
func (t *Trail) Quota(ctx context.Context, u QuotaUsage) error {
	named, _ := api.ParseResourceName(u.ARN)
	e := t.happened("QuotaUsage", u.At)
	e.Source, e.SourceIP, e.UserAgent, e.ReadOnly = quotaSource, quotaSource, quotaSource, false
	e.Identity = identity{Type: typeService, InvokedBy: quotaSource}
	e.Resources = []resource{{ARN: u.ARN, AccountID: named.Account, Type: resourceType(u.ARN)}}
	e.Details, e.Recipient = &quotaDetails{u.Code, u.ARN, u.Used, u.Limit}, named.Account
	return t.Log.Append(ctx, e.entry(u.At))
}
